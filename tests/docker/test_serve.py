"""The life of `sandbox serve`, as a process: start, reload, drain, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sandbox.store.owners import LABEL_FUNCTION, LABEL_STORE
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine

HELLO = "def handler(ctx):\n    return {'version': 1, 'secret': ctx.env.get('KEY')}\n"
SLEEPS = (
    "import sys, time\n"
    "def handler(ctx):\n"
    "    print('asleep', file=sys.stderr, flush=True)\n"
    "    time.sleep(ctx.input['seconds'])\n"
    "    return 'slept'\n"
)


class Serve:
    """A running `sandbox serve`."""

    def __init__(self, project: Path, environment: dict[str, str], *flags: str) -> None:
        self.log = project / "log"
        self.environment = environment
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandbox_cli", "serve", "--json", "--port", "0", *flags],
                cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.events: list[dict[str, Any]] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(60), self.log.read_text()
        url = next(it["url"] for it in self.events if it["event"] == "listening")
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == "listening":
                self._listening.set()
        self._listening.set()

    def close(self) -> None:
        """End it, and with it its containers."""
        try:
            if self.process.poll() is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if hasattr(self, "client"):
            self.client.close()

    def invoke(self, name: str, **input: Any) -> httpx.Response:
        return self.client.post(f"/api/functions/{name}", json=input)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(90)


@pytest.fixture
def project(tmp_path: Path, write: Callable[..., None]) -> Path:
    (tmp_path / "sandbox.yaml").write_text("store: store\nserver: {drain: 20s}\n")
    write("hello/index.py", HELLO)
    write("sleeps/index.py", SLEEPS)
    return tmp_path


@pytest.fixture
def serve(project: Path) -> Iterator[Callable[..., Serve]]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SANDBOX_")}
    runtime = project / "runtime"
    runtime.mkdir(mode=0o700)
    notify = {"NOTIFY_SOCKET": str(project / "notify")}
    environment = clean | {"XDG_RUNTIME_DIR": str(runtime)} | notify
    started: list[Serve] = []

    def start(*flags: str) -> Serve:
        started.append(Serve(project, environment, *flags))
        return started[-1]

    yield start
    for server in started:
        server.close()


def containers(engine: DockerEngine, project: Path) -> int:
    return len(engine.containers({LABEL_STORE: (project / "store/id").read_text()}))


def refuses(server: Serve) -> bool:
    """Whether the server takes no connections any more."""
    try:
        httpx.get(f"{server.client.base_url}/healthz", trust_env=False)
    except httpx.TransportError:
        return True
    return False


class Asking(threading.Thread):
    """A request under way: a function that has told that it sleeps."""

    def __init__(self, server: Serve, seconds: float) -> None:
        super().__init__(daemon=True)
        self.answer: httpx.Response | None = None
        self._server, self._seconds = server, seconds
        self.start()
        wait_until(lambda: server.client.get("/api/functions/stats").json()["running"])
        wait_until(self._asleep)

    def _asleep(self) -> bool:
        listed = self._server.client.get("/api/executions?status=running").json()["executions"]
        if not listed:
            return False
        path = f"/api/executions/{listed[0]['id']}"
        return "asleep" in self._server.client.get(path).json()["log_tail"]

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError):  # the server was killed
            self.answer = self._server.invoke("sleeps", seconds=self._seconds)

    def wait(self) -> httpx.Response:
        self.join(60)
        assert self.answer is not None
        return self.answer


def test_sigterm_lets_what_runs_finish_and_leaves_nothing(
    serve: Callable[..., Serve], project: Path, engine: DockerEngine
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(project / "notify"))
        supervisor.settimeout(60)
        server = serve()
        assert supervisor.recv(64) == b"READY=1"
        assert server.invoke("hello").json()["output"]["version"] == 1
        asking = Asking(server, 3)
        server.process.send_signal(signal.SIGTERM)
        assert supervisor.recv(64) == b"STOPPING=1"
    assert asking.wait().json()["output"] == "slept"
    assert server.process.wait(60) == 0
    assert containers(engine, project) == 0
    with pytest.raises(httpx.ConnectError):
        server.client.get("/healthz")


@pytest.mark.parametrize("signals", [1, 2], ids=["its limit", "a second signal"])
def test_what_does_not_finish_in_time_is_killed(
    serve: Callable[..., Serve], project: Path, engine: DockerEngine, signals: int
) -> None:
    drain = "1s" if signals == 1 else "60s"
    (project / "sandbox.yaml").write_text(f"store: store\nserver: {{drain: {drain}}}\n")
    server = serve()
    asking = Asking(server, 60)
    for _ in range(signals):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server))  # two that come at once are one
    answer = asking.wait()
    assert (answer.status_code, answer.json()["error"]["code"]) == (499, "CANCELLED")
    assert server.process.wait(60) == 0
    assert containers(engine, project) == 0


def test_sighup_reads_settings_and_secrets_again_and_keeps_what_runs(
    serve: Callable[..., Serve], project: Path, write: Callable[..., None]
) -> None:
    settings = "store: store\nsecrets_file: secrets.yaml\nserver: {drain: 20s}\n"
    (project / "secrets.yaml").write_text("KEY: first secret\n")
    (project / "sandbox.yaml").write_text(settings)
    write("hello/function.yaml", "env: {KEY: '${KEY}'}\n")
    server = serve()

    def secret() -> str:
        return str(server.invoke("hello").json()["output"]["secret"])

    assert secret() == "first secret"
    asking = Asking(server, 5)
    (project / "secrets.yaml").write_text("KEY: second secret\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: secret() == "second secret")
    assert server.client.get("/api/functions/stats").json()["running"] == 1
    assert asking.wait().json()["output"] == "slept"
    counted = server.client.get("/metrics").text
    assert (
        'alyx_sandbox_executions_total{code="OK",function="sleeps",trigger="http"} 1.0' in counted
    )

    # What cannot be used changes nothing, and is said.
    (project / "sandbox.yaml").write_text(settings + "concurency: 3\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "did you mean" in server.log.read_text())
    assert secret() == "second secret"
    assert server.end() == 0
    assert "secret" not in server.log.read_text().replace("secrets", "")


def test_what_a_killed_server_left_behind_is_removed_by_the_next(
    serve: Callable[..., Serve], project: Path, engine: DockerEngine
) -> None:
    first = serve()
    asking = Asking(first, 60)
    first.process.kill()
    first.process.wait()
    assert containers(engine, project) > 0  # the control
    asking.join(60)
    second = serve()
    assert second.invoke("hello").status_code == 200
    ours = {"hello"}
    wait_until(
        lambda: (
            {
                item.labels["alyx.sandbox.function"]
                for item in engine.containers({LABEL_STORE: (project / "store/id").read_text()})
            }
            <= ours
        )
    )
    wait_until(
        lambda: (
            second.client.get("/api/executions?function=sleeps").json()["executions"][0]["status"]
            == "cancelled"
        )
    )
    assert second.end() == 0
    assert containers(engine, project) == 0


def test_two_servers_with_one_store_do_not_disturb_each_other(
    serve: Callable[..., Serve], project: Path, engine: DockerEngine
) -> None:
    one, two = serve(), serve()
    asking = Asking(two, 4)
    assert one.invoke("hello").status_code == 200
    assert one.end() == 0
    assert containers(engine, project) > 0
    assert asking.wait().json()["output"] == "slept"
    assert two.invoke("hello").status_code == 200
    assert two.end() == 0
    assert containers(engine, project) == 0


def test_with_watch_edits_are_served_and_the_command_line_goes_through_it(
    serve: Callable[..., Serve], project: Path, write: Callable[..., None]
) -> None:
    server = serve("--watch")
    wait_until(lambda: any(it["event"] == "ready" for it in server.events))
    assert server.invoke("hello").json()["output"]["version"] == 1
    write("hello/index.py", HELLO.replace("1", "2"))
    wait_until(lambda: server.invoke("hello").json()["output"]["version"] == 2)
    write("hello/index.py", "def handler(")
    wait_until(lambda: any(it.get("problems") for it in server.events))
    assert server.invoke("hello").json()["output"]["version"] == 2
    before = server.client.get("/api/executions?function=hello").json()["executions"]
    environment = {"XDG_RUNTIME_DIR": str(project / "runtime"), "PATH": os.environ["PATH"]}
    home = {"HOME": os.environ["HOME"]} if "HOME" in os.environ else {}
    invoked = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sandbox_cli", "invoke", "hello", "--json"],
        cwd=project, env=environment | home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(invoked.stdout)["output"]["version"] == 2
    assert "sandbox.sandbox" not in invoked.stderr  # it was another process that invoked
    assert before
    assert server.end() == 0


@pytest.mark.parametrize(
    ("settings", "reason", "code"),
    [
        (
            "images: {override: {python: alyx-sandbox/nothing-of-that-name}}",
            "nothing-of-that-name",
            "RUNTIME_NOT_AVAILABLE",
        ),
        ("engine: {host: 'unix:///run/nothing.sock'}", "engine", "ENGINE_UNAVAILABLE"),
    ],
    ids=["an image", "the engine"],
)
def test_a_server_lives_without_what_it_needs_and_says_so(
    serve: Callable[..., Serve], project: Path, settings: str, reason: str, code: str
) -> None:
    (project / "sandbox.yaml").write_text(f"store: store\n{settings}\n")
    server = serve()
    assert server.client.get("/healthz").json() == {"status": "ok"}
    answer = server.client.get("/readyz")
    assert answer.status_code == 503
    assert reason in answer.json()["problems"][0]
    refused = server.invoke("hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, code)
    assert server.end() == 0


def test_what_was_taken_is_served_by_the_service_that_took_it(
    serve: Callable[..., Serve], project: Path, engine: DockerEngine
) -> None:
    """A body that is still on its way, a stream, and an invocation through the local socket."""
    server = serve()
    streamed: list[str] = []
    streaming = threading.Thread(target=stream_into, args=(server, streamed), daemon=True)
    streaming.start()
    invoking = subprocess.Popen(
        [sys.executable, "-m", "sandbox_cli", "invoke", "sleeps", "-d", '{"seconds": 4}'],
        cwd=project, env=server.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with invoking:
        assert invoking.stderr is not None
        assert "asleep" in invoking.stderr.readline()
        wait_until(lambda: "event: log" in streamed)
        running = server.client.get("/api/executions?status=running").json()["executions"]
        assert {(item["trigger"], item["caller"]) for item in running} == {
            ("local", "local"),
            ("http", "anonymous"),
        }
        for number, heard in ((signal.SIGHUP, "read again"), (signal.SIGTERM, "Shutting down")):
            with slow_request(server) as finish:
                server.process.send_signal(number)
                wait_until(lambda heard=heard: heard in server.log.read_text())  # type: ignore[misc]
                assert finish().startswith(b"HTTP/1.1 200 ")
        assert invoking.communicate(timeout=60)[0] == '"slept"\n'
        streaming.join(60)
        assert "event: response" in streamed
    assert server.process.wait(60) == 0
    assert containers(engine, project) == 0


def stream_into(server: Serve, lines: list[str]) -> None:
    """Invoke a function that sleeps, and take what is streamed, line by line."""
    with server.client.stream(
        "POST",
        "/api/functions/sleeps",
        json={"seconds": 4},
        headers={"Accept": "text/event-stream"},
    ) as answer:
        for line in answer.iter_lines():
            lines.append(line)  # noqa: PERF402 - each as it comes


@contextlib.contextmanager
def slow_request(server: Serve) -> Iterator[Callable[[], bytes]]:
    """A request that has been begun; it is finished by what this gives, which is the answer."""
    url = server.client.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(
            b"POST /api/functions/hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
        )
        # Connections are read in the order they came: when this is answered, the other was taken.
        httpx.get(str(url.join("/healthz")), trust_env=False)

        def finish() -> bytes:
            connection.sendall(b"}")
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
            return answer

        yield finish


def test_a_build_under_way_holds_up_no_end(
    serve: Callable[..., Serve],
    project: Path,
    engine: DockerEngine,
    write: Callable[..., None],
) -> None:
    (project / "sandbox.yaml").write_text("store: store\nbuild: {network: none}\n")
    write(
        "builds/function.yaml",
        "runtime: node\ninterface: handler\n"
        "build: {command: sh, args: [build.sh], output: out.mjs}\n",
    )
    write("builds/build.sh", "sleep 300\n")
    server = serve()

    def building() -> bool:
        ours = {LABEL_STORE: (project / "store/id").read_text(), LABEL_FUNCTION: "builds"}
        return [item.state for item in engine.containers(ours)] == ["running"]

    wait_until(building)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert containers(engine, project) == 0
    assert not any(item["event"] == "warning" for item in server.events)
