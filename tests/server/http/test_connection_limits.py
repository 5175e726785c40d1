"""Clients that are slow, endless or no clients at all: their connections end, and nobody waits.

Each is sent to a server with little patience; that an honest client is served is the control.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.server.http.connection_limits import LARGEST_HEAD
from tests.server.plain import PlainFunctions, Served, served
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.testing import FakeContext

PATIENCE = 0.5
# Much longer than that; much shorter than for ever.
LONG = 30
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/functions/big HTTP/1.1\r\nHost: localhost\r\n"
LARGE = 20_000_000
FILE = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'


class Big(PlainFunctions):
    """Its function answers with more than any buffer takes."""

    def answer(self, ctx: FakeContext) -> Any:
        return "x" * (LARGE if ctx.input.get("large") else 1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(
        tmp_path, kind=Big, function_limits={"output": "32mb"}, patience=PATIENCE, connections=8
    ) as place:
        place.sandbox.write("big", "runtime: python")
        yield place


@contextlib.contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    url = server.client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=LONG) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """What the server sends until it ends the connection. It has to, within the time limit."""
    parts = []
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def trickle(connection: socket.socket, data: bytes) -> bytes:
    """Send `data` again and again, a little slower than would be noticed by its absence."""
    deadline = time.monotonic() + LONG
    connection.settimeout(PATIENCE / 5)
    parts = []
    while time.monotonic() < deadline:
        try:
            connection.sendall(data)
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)
    raise AssertionError("the server never ended the connection")


def is_answered(connection: socket.socket) -> bool:
    connection.sendall(HEALTH)
    answer = b""
    while b'{"status":"ok"}' not in answer:
        answer += (part := connection.recv(65536))
        if not part:
            return False
    return answer.startswith(b"HTTP/1.1 200")


def status_of(answer: bytes) -> int:
    """The status of an answer, which is a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"x-request-id: req_" in head.lower()
    status = int(head.split()[1])
    assert json.loads(body)["status"] == status
    return status


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nX: ", b"\r\n"])
def test_one_that_begins_and_does_not_go_on(server: Served, data: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(data)
        assert rest(connection) == b""
    with connected(server) as honest:
        assert is_answered(honest)
        assert is_answered(honest)


@pytest.mark.parametrize("after", [b"", HEALTH], ids=["first", "later"])
@pytest.mark.parametrize("data", [b"\r\n", b"a"], ids=["empty lines", "a byte of headers"])
def test_one_that_sends_a_byte_now_and_then(server: Served, after: bytes, data: bytes) -> None:
    with connected(server) as connection:
        if after:
            assert is_answered(connection)
        if data == b"a":
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert trickle(connection, data) == b""


def test_a_body_that_comes_too_slowly(server: Served) -> None:
    with connected(server) as connection:
        connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n{")
        assert status_of(trickle(connection, b" ")) == 408


def test_a_body_that_nobody_reads_may_not_take_for_ever(server: Served) -> None:
    """It was answered, and what still comes is nobody's."""
    with connected(server) as connection:
        head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head)
        assert b" 404 " in trickle(connection, b" ")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1000000000000\r\n\r\n",
        b"Content-Length: 9000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n" % (len(FILE), FILE),
    ],
    ids=["says so", "just over", "chunked", "a file"],
)
def test_a_body_that_is_too_large(server: Served, head: bytes) -> None:
    """Refused as soon as that is known; and most of it is never sent."""
    with connected(server) as connection:
        connection.sendall(POST + head)
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n" if b"chunked" in head else b" " * 65536
        sent = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(16_000):
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 200_000_000
    # A client that reads before it sends on is told.
    with connected(server) as connection:
        connection.sendall(POST + b"Content-Length: 9000000\r\n\r\n")
        assert status_of(rest(connection)) == 413


@pytest.mark.parametrize(
    "flood",
    [
        b"GET /" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * LARGEST_HEAD + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * LARGEST_HEAD + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 3 * LARGEST_HEAD,
        b"GET / HTTP/1.1\r\n" + b"a" * 3 * LARGEST_HEAD,
    ],
    ids=["url", "value", "number", "value without end", "name without end"],
)
def test_headers_without_end(server: Served, flood: bytes) -> None:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(flood)
        answer = rest(connection)
        # What it sent is not read to the end, so the answer may be lost on its way.
        assert answer == b"" or status_of(answer) == 431
    with connected(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        connection.sendall(b"a" * (LARGEST_HEAD // 2) + b"\r\nConnection: close\r\n\r\n")
        assert b" 200 " in rest(connection)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{    }",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["TLS", "version", "NUL", "two lengths", "two more", "below zero", "chunk"],
)
def test_what_is_no_request_of_http(server: Served, data: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(data)
        assert status_of(rest(connection)) == 400
    assert server.sandbox.invoked == []


def test_one_that_does_not_read_its_answer(server: Served) -> None:
    body = b'{"large": true}'
    head = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connected(server) as connection:
        connection.sendall(head + body)
        wait_until(lambda: server.sandbox.invoked)
        assert not is_over(connection)
        wait_until(lambda: is_over(connection), seconds=LONG)
        # What had been sent before is all that there is.
        assert len(rest(connection)) < LARGE
    # One that does gets all of it.
    assert len(server.client.post("/api/functions/big", content=body).json()["output"]) == LARGE


def is_over(connection: socket.socket) -> bool:
    """Whether the server has ended it. Who reads nothing does not hear of that."""
    ends = [f"{end[1]:04X}" for end in (connection.getpeername(), connection.getsockname())]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        local, remote, state = line.split()[1:4]
        if [local.rpartition(":")[2], remote.rpartition(":")[2]] == ends:
            return state != "01"  # established
    return True


def test_connections_beyond_the_limit_are_told_so(server: Served) -> None:
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(connected(server)) for _ in range(8)]
        assert all(map(is_answered, several))
        with connected(server) as ninth:
            ninth.sendall(HEALTH)
            assert status_of(rest(ninth)) == 503
        # Those that were there before are served as before.
        assert all(map(is_answered, several))


def test_requests_in_a_row_are_answered_in_that_order(server: Served) -> None:
    last = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(HEALTH * 20 + last)
        answer = rest(connection)
    assert answer.count(b"HTTP/1.1 200") == 20
    assert answer.rindex(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 404")
