"""Server and client, over a real socket; who may connect, and what becomes of those who go away."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.call import Call
from sandbox.errors import (
    FunctionNotFoundError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
)
from sandbox.local import sockets
from sandbox.local.client import Connection, NotTakenError, connect
from sandbox.local.server import AddressInUseError

from .conftest import PATIENCE, Invocations

if TYPE_CHECKING:
    from sandbox.local.address import Address

Serve = "Callable[..., Server]"
ROOT = Path(__file__).parent.parent.parent


def connected(address: Address) -> Connection:
    connection = connect(address)
    assert connection is not None
    return connection


def ask(address: Address, name: str, logs: list[Any] | None = None, **request: Any) -> Any:
    with connected(address) as connection:
        on_log = [].append if logs is None else logs.append
        return json.loads(connection.invoke(Call(function=name, **request), on_log=on_log))


def raw(address: Address) -> socket.socket:
    """A connection of somebody who does not keep to the protocol; the greeting is read."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    with sockets.private_directory(address.directory) as directory:
        connection.connect(sockets.inside(directory, address.socket.name))
    assert b'"hello"' in connection.recv(1000)
    return connection


def test_a_request_arrives_with_all_that_belongs_to_it(serve: Serve, address: Address) -> None:
    serve()
    logs: list[Any] = []
    file = {
        "name": "f",
        "filename": "f.txt",
        "content_type": "text/plain",
        "size": 1,
        "data": "eA==",
    }
    response = ask(
        address, "echo", logs, input={"city": "Zürich", "odd": "\ud800", "big": 2**80},
        auth={"id": "u"}, files=[file], timeout=2.5, request_id="mine",
    )  # fmt: skip
    assert response["request_id"] == "mine"
    assert response["output"] == {
        "input": {"city": "Zürich", "odd": "\ud800", "big": 2**80},
        "auth": {"id": "u"}, "files": [file], "timeout": 2.5, "request_id": "mine",
        "function": "echo", "caller": "local", "trigger": "local", "traceparent": None,
    }  # fmt: skip
    (entry,) = logs
    assert (entry["level"], entry["message"], entry["data"]) == (
        "warn",
        "first \ud800\nline",
        {"n": 1},
    )


def test_an_error_is_raised_as_it_was(serve: Serve, address: Address) -> None:
    serve()
    with pytest.raises(FunctionNotFoundError) as caught:
        ask(address, "nope")
    assert caught.value.hint == "look"
    assert caught.value.details == {"near": []}


def test_a_defect_is_an_internal_error_and_logged(
    serve: Serve, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    serve()
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        ask(address, "broken")
    assert "Traceback" in caplog.text
    assert ask(address, "echo")["success"]


def test_only_the_user_can_reach_the_socket(serve: Serve, address: Address) -> None:
    serve()
    assert stat.S_IMODE(address.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(address.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o702])
def test_a_directory_that_others_can_enter_is_not_used(
    mode: int, serve: Serve, address: Address
) -> None:
    server = serve()
    address.directory.chmod(mode)
    assert connect(address) is None
    address.directory.chmod(0o700)
    connected(address).close()  # the control
    server.close()
    address.directory.chmod(mode)
    with pytest.raises(PermissionError):
        serve()


def test_a_link_to_a_directory_is_not_used(serve: Serve, address: Address) -> None:
    serve()
    moved = address.directory.with_name("moved")
    address.directory.rename(moved)
    address.directory.symlink_to(moved)
    assert connect(address) is None
    address.directory.unlink()
    moved.rename(address.directory)


def test_a_client_of_another_user_is_turned_away(
    serve: Serve, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    connected(address).close()  # the control
    # The server is in this process: it takes itself for another user than its client's.
    ours = os.geteuid()
    monkeypatch.setattr("sandbox.local.server.peer_is_us", lambda _: ours == os.geteuid() + 1)
    assert connect(address) is None


def test_a_server_of_another_user_is_not_asked(serve: Serve, address: Address) -> None:
    """A process of another user, in a namespace where the kernel says so."""
    serve()
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from sandbox.local.address import Address\n"
        "from sandbox.local.client import connect\n"
        "from sandbox.local import sockets\n"
        "sockets.os.geteuid = lambda: int(sys.argv[3])\n"
        "import contextlib, sandbox.local.client as client\n"
        "@contextlib.contextmanager\n"
        "def anybody(path):\n"
        "    descriptor = os.open(path, os.O_PATH)\n"
        "    yield descriptor\n"
        "    os.close(descriptor)\n"
        "client.private_directory = anybody\n"
        "print(connect(Address(Path(sys.argv[1]), sys.argv[2])) is not None)\n"
    )

    def connects(uid: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", program, address.directory, address.name, str(uid)],
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout.strip()  # fmt: skip

    assert connects(os.geteuid()) == "True"
    assert connects(os.geteuid() + 1) == "False"


def test_a_client_that_hangs_up_cancels_its_invocation(
    serve: Serve, address: Address, invocations: Invocations
) -> None:
    serve()
    with raw(address) as connection:
        connection.sendall(b'{"type":"invoke","function":"wait"}\n')
        assert invocations.started.wait(PATIENCE)
        assert not invocations.cancelled.is_set()
    assert invocations.cancelled.wait(PATIENCE)


def test_ctrl_c_waits_until_the_invocation_has_ended(
    serve: Serve, address: Address, invocations: Invocations
) -> None:
    serve()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with connected(address) as connection, pytest.raises(KeyboardInterrupt):
        connection.invoke(Call(function="wait"), on_log=interrupt)
    assert invocations.cancelled.is_set()


def test_a_client_that_does_not_read_cancels_its_invocation(
    serve: Serve, address: Address, invocations: Invocations
) -> None:
    serve(patience=0.2)
    with raw(address) as connection:
        connection.sendall(b'{"type":"invoke","function":"chatty"}\n')
        assert invocations.cancelled.wait(PATIENCE)


def test_a_client_that_says_nothing_is_given_up(serve: Serve, address: Address) -> None:
    serve(patience=0.2)
    with raw(address) as connection:
        assert connection.recv(1000) == b""


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b'{"type":"hello","max_request":1}\n', b"\xff\n"]
)
def test_what_is_no_request_gets_an_error(said: bytes, serve: Serve, address: Address) -> None:
    serve()
    with raw(address) as connection:
        connection.sendall(said)
        answer = json.loads(connection.makefile().readline())
    assert (answer["type"], answer["code"]) == ("failure", "INVALID_REQUEST")


def test_a_request_that_is_too_large_is_not_read_to_its_end(serve: Serve, address: Address) -> None:
    serve(request=1000)
    with connected(address) as connection:
        assert connection.max_request == 1000
        with pytest.raises(NotTakenError):
            connection.invoke(Call(function="echo", input={"x": "y" * 100_000}), on_log=print)
    with raw(address) as connection:
        with contextlib.suppress(BrokenPipeError):
            for _ in range(10_000):
                connection.sendall(b"x" * 65_536)
            pytest.fail("it took 650 MB")
        assert b"INVALID_REQUEST" in connection.recv(1000)


def test_more_connections_than_allowed_are_refused_at_once(
    serve: Serve, address: Address, invocations: Invocations
) -> None:
    serve(connections=1)
    with raw(address) as connection:
        connection.sendall(b'{"type":"invoke","function":"wait"}\n')
        assert invocations.started.wait(PATIENCE)
        with pytest.raises(OverloadedError) as caught:
            ask(address, "echo")
        assert caught.value.retry_after == 1.0
        invocations.may_end.set()
        assert b'"response"' in connection.recv(100_000) + connection.recv(100_000)
    while True:  # its thread ends a moment later
        with contextlib.suppress(OverloadedError):
            assert ask(address, "echo")["success"]
            return


def test_many_are_served_at_once(serve: Serve, address: Address) -> None:
    serve()
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(ask(address, "echo", input={"n": n})))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(answer["output"]["input"]["n"] for answer in answers) == list(range(20))


def test_a_server_whose_settings_are_out_of_date_turns_clients_away(
    serve: Serve, address: Address
) -> None:
    current = [True]
    serve(is_current=lambda: current[0])
    connected(address).close()
    current[0] = False
    assert connect(address) is None


def test_closing_cancels_what_is_under_way_and_leaves_nothing(
    serve: Serve, address: Address, invocations: Invocations
) -> None:
    server = serve()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask(address, "wait")))
    thread.start()
    assert invocations.started.wait(PATIENCE)
    server.close()
    thread.join(PATIENCE)
    assert answers[0]["error"]["code"] == "CANCELLED"
    assert list(address.directory.iterdir()) == []
    assert connect(address) is None


def test_of_two_servers_at_one_address_the_first_stays(serve: Serve, address: Address) -> None:
    first = serve()
    with pytest.raises(AddressInUseError):
        serve()
    assert ask(address, "echo")["success"]
    first.close()
    serve()
    assert ask(address, "echo")["success"]


KILLED = """
import sys, time
from pathlib import Path
from sandbox.local.address import Address
from sandbox.local.server import ClientLimits, LocalServer
server = LocalServer(Address(Path(sys.argv[1]), sys.argv[2]), None, limits=ClientLimits(request=1000))
print("serving", flush=True)
time.sleep(600)
"""


def test_what_a_killed_server_leaves_is_in_nobody_s_way(serve: Serve, address: Address) -> None:
    with contextlib.ExitStack() as stack:
        for name in (address.name, "f" * 32):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", KILLED, address.directory, name],
                    stdout=subprocess.PIPE, cwd=ROOT,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"serving\n"
    assert address.socket.exists()
    assert connect(address) is None
    server = serve()
    assert ask(address, "echo")["success"]
    assert {path.name for path in address.directory.iterdir()} == {
        f"{address.name}.sock", f"{address.name}.lock",
    }  # fmt: skip
    server.close()


def test_a_server_that_is_stopped_is_not_waited_for(
    serve: Serve, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.local.client._GREETING_SECONDS", 0.2)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, address.directory, address.name],
        stdout=subprocess.PIPE, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        connected(address).close()  # the control
        process.send_signal(signal.SIGSTOP)
        assert connect(address) is None
        process.send_signal(signal.SIGKILL)


def test_without_a_directory_there_is_no_server(address: Address) -> None:
    assert connect(address) is None
    address.directory.mkdir(mode=0o700, parents=True)
    assert connect(address) is None
    address.socket.write_text("no socket")
    assert connect(address) is None
    shutil.rmtree(address.directory)


@pytest.mark.parametrize("said", [b"", b'{"type":"log"', b"nonsense\n"])
def test_a_server_that_ends_before_it_answers_is_an_error(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'{"type":"hello","protocol":1,"max_request":1000}\n' + said)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(InternalError) as caught:
            Connection(ours).invoke(Call(function="echo"), on_log=print)
    assert "process that serves these functions" in caught.value.message


def test_bad_uploads_are_refused(serve: Serve, address: Address) -> None:
    serve()
    with pytest.raises((InternalError, InvalidRequestError)):
        ask(address, "echo", files=[{"name": "x"}])
