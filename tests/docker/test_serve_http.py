"""HTTP before real containers: what a client gets, and what its going away ends."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sandbox.store.owners import LABEL_FUNCTION, LABEL_STORE
from tests.docker.test_serve import project, serve  # noqa: F401 - fixtures
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.engine.docker.engine import DockerEngine
    from tests.docker.test_serve import Serve

MIB = 1024 * 1024
ODD = """
import os, sys, time

def handler(ctx):
    for line in range(2):
        print("line", line, file=sys.stderr, flush=True)
    if ctx.input.get("do") == "sleep":
        time.sleep(25)
    if ctx.input.get("do") == "die":
        os.kill(os.getpid(), 9)
    return {"input": ctx.input, "auth": ctx.auth}
"""


def odd(server: Serve, **more: Any) -> httpx.Response:
    return server.client.post("/api/functions/odd", **more)


def test_each_outcome_has_its_status(
    serve: Callable[..., Serve],  # noqa: F811
    project: Path,  # noqa: F811
    write: Callable[..., None],
    engine: DockerEngine,
) -> None:
    write("odd/index.py", ODD)
    server = serve()

    def running() -> int:
        store = (project / "store/id").read_text()
        return len(engine.containers({LABEL_STORE: store, LABEL_FUNCTION: "odd"}))

    answered = odd(server, json={"name": "Ada"})
    assert (answered.status_code, answered.json()["output"]["input"]) == (200, {"name": "Ada"})
    assert re.fullmatch("[0-9a-f]{64}", answered.json()["stats"]["version"])

    form = odd(server, data={"name": "Ada"}, files={"photo": ("a.txt", b"hello", "text/plain")})
    assert form.json()["output"]["input"] == {
        "name": "Ada",
        "_files": [
            {"name": "photo", "filename": "a.txt", "content_type": "text/plain", "size": 5,
             "data": "aGVsbG8="}
        ],
    }  # fmt: skip

    late = odd(server, params={"timeout": "1s"}, json={"do": "sleep"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "TIMEOUT")
    crashed = odd(server, json={"do": "die"})
    assert (crashed.status_code, crashed.json()["error"]["code"]) == (502, "FUNCTION_CRASHED")

    # Who goes away while it runs has its container killed.
    streaming = {"accept": "text/event-stream"}
    stream = {"headers": streaming, "json": {"do": "sleep"}}
    with server.client.stream("POST", "/api/functions/odd", **stream) as live:
        assert "line 0" in next(line for line in live.iter_lines() if line.startswith("data:"))
        assert running()
    (execution,) = server.client.get("/api/executions?limit=1").json()["executions"]
    path = f"/api/executions/{execution['id']}"
    wait_until(lambda: server.client.get(path).json()["status"] == "cancelled", seconds=15)

    # So has one that somebody ends; and its log is told from its beginning.
    path = odd(server, params={"wait": "false"}, json={"do": "sleep"}).headers["location"]
    with server.client.stream("GET", f"{path}/logs") as live:
        lines = live.iter_lines()
        assert "line 0" in next(line for line in lines if line.startswith("data:"))
        assert server.client.delete(path).status_code == 202
        ended = [line for line in lines if line.startswith("data:")][-1]
    execution = json.loads(ended.removeprefix("data: "))
    assert (execution["status"], execution["code"]) == ("cancelled", "CANCELLED")
    assert "line 1" in execution["log_tail"]

    with pytest.raises(httpx.ReadTimeout):
        odd(server, json={"do": "sleep"}, timeout=0.5)
    wait_until(lambda: not any(map(is_under_way, executions(server))), seconds=15)


def executions(server: Serve) -> Iterator[str]:
    for execution in server.client.get("/api/executions").json()["executions"]:
        yield execution["status"]


def is_under_way(status: str) -> bool:
    return status in ("queued", "running")


FILE = '--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
WAYS = {
    "a length that is true": "Content-Length: 1073741824\r\n\r\n",
    "chunks": "Transfer-Encoding: chunked\r\n\r\n",
    "a file of a form": "Content-Type: multipart/form-data; boundary=x\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{len(FILE):x}\r\n{FILE}\r\n",
    "a header": "X: ",
}


def test_a_gigabyte_costs_the_server_no_memory(serve: Callable[..., Serve]) -> None:  # noqa: F811
    """Sent as a body in several ways and as headers; to a function, and to nobody."""
    server = serve()
    assert server.client.post("/api/functions/odd").status_code == 404
    before = peak(server)
    # The control: what one is allowed to send is held, and is seen here.
    body = b'{"text": "' + b"x" * 7 * MIB + b'"}'
    server.client.post("/api/functions/hello?timeout=1ms", content=body)
    assert peak(server) > before + 7 * MIB
    before = peak(server)
    for path in ("/api/functions/hello", "/nothing"):
        for way, head in WAYS.items():
            send_a_gigabyte(server, path, head)
            assert peak(server) < before + 64 * MIB, (path, way)
    assert server.client.get("/healthz").status_code == 200


def send_a_gigabyte(server: Serve, path: str, head: str) -> None:
    """As much of it as the server takes."""
    url = server.client.base_url
    part = b"x" * MIB
    if "chunked" in head:
        part = b"100000\r\n" + part + b"\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}".encode())
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(1024):
                connection.sendall(part)


def peak(server: Serve) -> int:
    """The most memory that the server has held, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
