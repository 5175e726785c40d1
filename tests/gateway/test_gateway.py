"""A gateway from both sides, with real sockets: what a container would reach, and what not."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandbox.config.destinations import Callback, Destination, NetworkPolicy
from sandbox.config.settings import NetworkSettings
from sandbox.gateway.allocation import SOCKETS_DIR
from sandbox.gateway.gateway import Gateways
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.gateway.gateway import Gateway
    from tests.gateway.conftest import Names, Server

Opened = "Callable[..., Gateway]"


def dial(gateway: Gateway, place: int = -1) -> socket.socket:
    """A connection as init makes one, to the socket of the last `--forward`, or of another."""
    path = gateway.attachment.arguments[1:][1::2][place].partition("=")[2]
    directory = next(
        mount.source for mount in gateway.attachment.mounts if mount.target == SOCKETS_DIR
    )
    descriptor = os.open(directory, os.O_PATH)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    try:
        client.connect(f"/proc/self/fd/{descriptor}/{path.rpartition('/')[2]}")
    finally:
        os.close(descriptor)
    return client


def read_all(client: socket.socket) -> bytes:
    """What comes until the end, be it a clean one or not."""
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def ask(gateway: Gateway, data: bytes = b"", place: int = -1) -> bytes:
    """Send `data` and its end, return what comes back."""
    with dial(gateway, place) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return read_all(client)


def test_an_allowed_destination_is_reached_and_counted(
    opened: Opened, server: Server, names: Names
) -> None:
    names.answers["api.test"] = ["127.0.0.1"]
    where = f"api.test:{server.port}"
    gateway = opened(where, private=(where,))
    server.greeting = b"hello "
    assert ask(gateway, b"world") == b"hello world"
    (entry,) = gateway.stats().allowed
    assert (entry.destination, entry.connections) == (where, 1)
    assert (entry.bytes_sent, entry.bytes_received) == (5, 11)
    assert gateway.stats().denied == ()


def test_much_data_goes_both_ways_unchanged(opened: Opened, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,))
    data = os.urandom(3 << 20)
    with dial(gateway) as client:
        sending = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(1)))
        sending.start()
        assert read_all(client) == data
        sending.join()


def test_each_socket_leads_to_its_own_destination(
    opened: Opened, server: Server, names: Names
) -> None:
    names.answers |= {"a.test": ["127.0.0.1"], "b.test": ["10.255.255.1"]}
    gateway = opened(
        f"a.test:{server.port}", f"b.test:{server.port}", private=(f"a.test:{server.port}",)
    )
    assert ask(gateway, b"x", 0) == b"x"
    assert ask(gateway, b"x", 1) == b""
    (denied,) = gateway.stats().denied
    assert denied.destination == f"b.test:{server.port}"
    assert denied.reason == "10.255.255.1 is a private address (network.allow_private)"


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::1"])
def test_a_name_that_leads_to_a_forbidden_address_is_refused(
    opened: Opened, server: Server, names: Names, address: str
) -> None:
    names.answers["api.test"] = [address]
    gateway = opened(f"api.test:{server.port}")
    assert ask(gateway, b"x") == b""
    assert server.connections == 0
    (denied,) = gateway.stats().denied
    assert "address" in denied.reason


def test_a_metadata_address_stays_refused_where_private_ones_are_allowed(
    opened: Opened, names: Names
) -> None:
    names.answers["api.test"] = ["169.254.169.254"]
    gateway = opened("api.test:80", private=("api.test:80",))
    assert ask(gateway) == b""
    assert gateway.stats().denied[0].reason == "169.254.169.254 is a metadata service's address"


def test_of_several_addresses_only_the_good_ones_are_tried(
    opened: Opened, server: Server, names: Names
) -> None:
    names.answers["api.test"] = ["169.254.169.254", "127.0.0.9", "127.0.0.1"]
    where = f"api.test:{server.port}"
    gateway = opened(where, private=(where,))
    # Nothing listens at 127.0.0.9: the next is tried.
    assert ask(gateway, b"x") == b"x"


def test_a_name_is_looked_up_once_and_its_answer_pinned(
    opened: Opened, server: Server, names: Names
) -> None:
    where = f"api.test:{server.port}"
    names.answers["api.test"] = ["127.0.0.1"]
    gateway = opened(where, private=(where,))
    assert ask(gateway, b"first") == b"first"
    names.answers["api.test"] = ["169.254.169.254"]
    assert ask(gateway, b"second") == b"second"
    assert names.asked == ["api.test"]


def test_a_name_that_was_refused_stays_refused_whatever_it_answers_later(
    opened: Opened, server: Server, names: Names
) -> None:
    where = f"api.test:{server.port}"
    names.answers["api.test"] = ["169.254.169.254"]
    gateway = opened(where, private=(where,))
    assert ask(gateway, b"x") == b""
    names.answers["api.test"] = ["127.0.0.1"]
    assert ask(gateway, b"x") == b""
    assert server.connections == 0
    # The control: another container, which asks anew.
    assert ask(opened(where, private=(where,)), b"x") == b"x"


def test_a_name_without_an_answer_is_asked_for_again(
    opened: Opened, server: Server, names: Names
) -> None:
    where = f"api.test:{server.port}"
    gateway = opened(where, private=(where,))
    assert ask(gateway) == b""
    (entry,) = gateway.stats().allowed
    assert (entry.failed, entry.failure) == (1, "api.test has no address: no such name")
    names.answers["api.test"] = ["127.0.0.1"]
    assert ask(gateway, b"x") == b"x"


def test_a_destination_that_refuses_is_a_failure_and_not_denied(
    opened: Opened, server: Server
) -> None:
    where = "127.0.0.1:1"
    gateway = opened(where, private=(where,))
    assert ask(gateway) == b""
    assert gateway.stats().denied == ()
    assert gateway.stats().allowed[0].failure == "127.0.0.1: Connection refused"


def test_a_lookup_that_never_ends_is_given_up(tmp_path: Path) -> None:
    asked, free = threading.Event(), threading.Event()

    def stuck(host: str) -> list[str]:
        asked.set()
        free.wait(60)
        return []

    settings = NetworkSettings(connect_timeout=0.2)
    with Gateways(settings, directory=tmp_path / "g", resolver=stuck) as gateways:
        gateway = gateways.open(NetworkPolicy(destinations=(Destination("api.test", 443),)))
        assert ask(gateway) == b""
        assert asked.is_set()
        assert "connect_timeout" in (gateway.stats().allowed[0].failure or "")
    free.set()


def test_the_callback_reaches_this_machine_with_no_destination_allowed(
    opened: Opened, server: Server
) -> None:
    callback = Callback.parse(f"http://127.0.0.1:{server.port}/api")
    gateway = opened(policy=NetworkPolicy(callback=callback))
    assert ask(gateway, b"x") == b"x"


# The proxy


def test_the_proxy_connects_to_names_below_a_wildcard(
    opened: Opened, server: Server, names: Names
) -> None:
    wildcard = f"*.example.test:{server.port}"
    gateway = opened(wildcard, private=(wildcard,))
    names.answers["a.example.test"] = ["127.0.0.1"]
    request = f"CONNECT A.example.test:{server.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert ask(gateway, request + b"first") == (b"HTTP/1.1 200 Connection established\r\n\r\nfirst")
    assert gateway.stats().allowed[0].destination == f"a.example.test:{server.port}"
    assert gateway.stats().allowed[0].bytes_sent == 5


def test_the_proxy_takes_a_request_byte_by_byte(
    opened: Opened, server: Server, names: Names
) -> None:
    wildcard = f"*.example.test:{server.port}"
    gateway = opened(wildcard, private=(wildcard,))
    names.answers["a.example.test"] = ["127.0.0.1"]
    with dial(gateway) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for byte in f"CONNECT a.example.test:{server.port} HTTP/1.1\r\n\r\n".encode():
            client.sendall(bytes([byte]))
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).endswith(b"\r\n\r\nx")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("CONNECT example.test:443 HTTP/1.1", 403),
        ("CONNECT a.example.test:80 HTTP/1.1", 403),
        ("CONNECT a.other.test:443 HTTP/1.1", 403),
        ("CONNECT 127.0.0.1:443 HTTP/1.1", 403),
        ("CONNECT private.example.test:443 HTTP/1.1", 403),
        ("CONNECT nowhere.example.test:443 HTTP/1.1", 502),
        ("GET http://a.example.test/ HTTP/1.1", 405),
        ("nonsense", 400),
        ("X" * 20_000, 431),
    ],
)
def test_the_proxy_refuses_everything_else(
    opened: Opened, names: Names, request_line: str, status: int
) -> None:
    names.answers["private.example.test"] = ["10.0.0.1"]
    gateway = opened("*.example.test:443")
    answer = ask(gateway, f"{request_line}\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or (status == 431 and answer == b"")
    stats = gateway.stats()
    assert bool(stats.denied) == (status != 502)
    assert bool(stats.allowed) == (status == 502)


def test_the_proxy_does_not_wait_for_ever_for_a_request(opened: Opened) -> None:
    gateway = opened("*.example.test:443", connect_timeout=0.2)
    with dial(gateway) as client:
        client.sendall(b"CONNECT ")
        assert read_all(client) == b""
    assert gateway.stats().denied[0].reason == "no request came in time"


# Caps


def test_too_many_connections_at_once_are_closed_and_listed(opened: Opened, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,), max_connections=2)
    server.greeting = b"."
    with dial(gateway) as first, dial(gateway) as second, dial(gateway) as third:
        assert (first.recv(1), second.recv(1)) == (b".", b".")
        assert read_all(third) == b""
    (denied,) = gateway.stats().denied
    assert denied.reason == "more than 2 connections at once (network.max_connections)"
    wait_until(lambda: ask(gateway, b"again") == b".again")


def test_too_many_connections_in_total_are_closed_and_listed(
    opened: Opened, server: Server
) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,), max_total_connections=2)
    assert [ask(gateway, b"x") for _ in range(3)] == [b"x", b"x", b""]
    assert "network.max_total_connections" in gateway.stats().denied[0].reason
    # A new invocation in the same container has counts of its own.
    gateway.begin()
    assert gateway.stats().denied == ()
    assert ask(gateway, b"x") == b"x"


def test_all_functions_together_leave_descriptors_for_the_rest(
    tmp_path: Path, server: Server
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        gateways = Gateways(NetworkSettings(max_connections=40), directory=tmp_path / "g")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    here = Destination("127.0.0.1", server.port)
    server.greeting = b"."
    with gateways, contextlib.ExitStack() as stack:
        policy = NetworkPolicy(destinations=(here,), private=(here,))
        first, second = gateways.open(policy), gateways.open(policy)
        clients = [stack.enter_context(dial(first)) for _ in range(40)]
        clients += [stack.enter_context(dial(second)) for _ in range(10)]
        assert [client.recv(1) for client in clients] == [b"."] * 50
        assert ask(second) == b""
        assert "all functions together" in second.stats().denied[0].reason
        clients[0].close()
        wait_until(lambda: ask(second) == b".")


def test_too_many_bytes_end_the_connection_before_they_are_sent(
    opened: Opened, server: Server
) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,), max_bytes="1kb")
    assert ask(gateway, b"x" * 500) == b"x" * 500
    assert ask(gateway, b"x" * 500) == b""
    (denied,) = gateway.stats().denied
    assert denied.reason == "more than 1kb sent and received (network.max_bytes)"
    assert sum(item.bytes_sent + item.bytes_received for item in gateway.stats().allowed) <= 1024


def test_a_side_that_does_not_read_holds_back_the_other(opened: Opened, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,))
    server.greeting = b"x" * (64 << 20)
    with dial(gateway) as client:
        assert client.recv(1) == b"x"
        received = -1
        while (now := gateway.stats().allowed[0].bytes_received) != received:
            received = now
            time.sleep(0.2)
        # Only what the kernel's buffers hold; the rest waits at the server.
        assert received < 32 << 20


def test_many_names_below_a_wildcard_do_not_make_a_long_list(opened: Opened) -> None:
    gateway = opened("*.example.test:443")
    for number in range(120):
        ask(gateway, f"CONNECT a{number}.example.test:443 HTTP/1.1\r\n\r\n".encode())
        ask(gateway, f"CONNECT b{number}.other.test:443 HTTP/1.1\r\n\r\n".encode())
    stats = gateway.stats()
    assert len(stats.allowed) == len(stats.denied) == 101
    assert stats.allowed[-1].failed == stats.denied[-1].attempts == 20


# Its life


def test_closing_ends_every_connection_and_removes_the_sockets(
    opened: Opened, server: Server
) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,))
    directory = gateway.attachment.mounts[-1].source
    server.greeting = b"."
    with dial(gateway) as client, dial(gateway) as silent:
        assert client.recv(1) == b"."
        gateway.close()
        assert read_all(client) == b""
        assert read_all(silent) in (b"", b".")
    assert not directory.exists()
    gateway.close()


def test_closing_at_once_leaves_nothing_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    policy = NetworkPolicy(destinations=(Destination("api.test", 443), Destination("b.test", 1)))
    for _ in range(3):
        with Gateways(NetworkSettings(), directory=tmp_path / "g") as gateways:
            gateways.open(policy).close()
            gateways.open(policy)
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not (tmp_path / "g").exists()
    assert "gateway" not in {thread.name for thread in threading.enumerate()}


def test_without_destinations_there_is_no_thread_and_no_socket(tmp_path: Path) -> None:
    with Gateways(NetworkSettings(), directory=tmp_path / "g") as gateways:
        gateway = gateways.open(NetworkPolicy())
        assert [mount.target for mount in gateway.attachment.mounts] == [
            "/etc/hosts",
            "/etc/resolv.conf",
        ]
        assert gateway.attachment.arguments == ("--dns",)
        assert gateway.attachment.env == {}
        assert "gateway" not in {thread.name for thread in threading.enumerate()}
        assert gateway.stats().allowed == gateway.stats().denied == ()


def test_sockets_are_open_to_any_user_in_a_directory_closed_to_all(opened: Opened) -> None:
    gateway = opened("api.test:443")
    directory = gateway.attachment.mounts[-1].source
    assert directory.parent.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_mode & 0o777 == 0o755
    assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o666]
    assert all(mount.source.stat().st_mode & 0o044 == 0o044 for mount in gateway.attachment.mounts)


def test_many_connections_at_once_are_all_served(opened: Opened, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,), max_connections=200)
    data = [str(number).encode() * 1000 for number in range(100)]
    clients = [dial(gateway) for _ in data]
    for client, text in zip(clients, data, strict=True):
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
    assert [read_all(client) for client in clients] == data
    for client in clients:
        client.close()


def test_one_who_is_greedy_does_not_starve_another(opened: Opened, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    gateway = opened(where, private=(where,), max_bytes="10gb")
    stop = threading.Event()

    def flood() -> None:
        with dial(gateway) as client:
            reading = threading.Thread(target=read_all, args=[client])
            reading.start()
            while not stop.is_set():
                client.sendall(b"x" * 65536)
            client.shutdown(socket.SHUT_RDWR)
            reading.join()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        assert ask(gateway, b"small") == b"small"
    finally:
        stop.set()
        flooding.join()


def test_importing_the_gateway_does_not_import_asyncio() -> None:
    import subprocess
    import sys

    code = "import sys, sandbox.gateway.gateway, sandbox.policy; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
