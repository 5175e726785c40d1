"""Where destinations are inside a container."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from sandbox.config.destinations import Callback, Destination, NetworkPolicy
from sandbox.gateway.allocation import allocate
from tests.config.test_destinations import ADDRESSES, NAMED, WILDCARDS


def policy(*texts: str, alyx_url: str = "") -> NetworkPolicy:
    return NetworkPolicy(
        destinations=tuple(map(Destination.parse, texts)),
        callback=Callback.parse(alyx_url) if alyx_url else None,
    )


def test_without_destinations_there_is_only_localhost() -> None:
    nothing = allocate(policy())
    assert nothing.listeners == ()
    assert nothing.hosts_file == "127.0.0.1\tlocalhost\n"
    assert nothing.arguments == ("--dns",)
    assert nothing.env == {}


def test_a_host_has_one_address_whatever_its_ports() -> None:
    allocation = allocate(policy("a.org:443", "a.org:80", "b.org:443"))
    assert allocation.hosts == {
        "localhost": "127.0.0.1",
        "a.org": "127.0.1.1",
        "b.org": "127.0.1.2",
    }
    assert allocation.arguments == (
        "--dns", "--forward", "127.0.1.1:443=/run/alyx/0", "--forward", "127.0.1.1:80=/run/alyx/1",
        "--forward", "127.0.1.2:443=/run/alyx/2",
    )  # fmt: skip
    assert allocation.env == {}


def test_the_callback_to_localhost_is_at_localhost() -> None:
    allocation = allocate(policy("localhost:8090", alyx_url="http://localhost:8090"))
    assert allocation.arguments == ("--dns", "--forward", "127.0.0.1:8090=/run/alyx/0")


def test_a_wildcard_is_behind_a_proxy_and_exact_hosts_are_not() -> None:
    allocation = allocate(policy("a.org:443", "*.b.org:443"))
    assert allocation.env["HTTPS_PROXY"] == allocation.env["https_proxy"] == "http://127.0.1.2:3128"
    assert allocation.env["NO_PROXY"].split(",") == ["localhost", "a.org", "127.0.0.1"]
    assert [item.route is None for item in allocation.listeners] == [False, True]


def test_an_address_is_behind_the_proxy_unless_it_is_a_loopback_address() -> None:
    allocation = allocate(policy("93.184.216.34:443", "127.0.1.1:80", "[::1]:80"))
    assert [(item.address, item.port) for item in allocation.listeners] == [
        ("127.0.1.1", 80), ("127.0.1.2", 3128)
    ]  # fmt: skip


@given(
    st.lists(NAMED | WILDCARDS | ADDRESSES, max_size=80, unique=True),
    st.sampled_from(["", "http://localhost:8090", "http://10.0.0.7", "https://alyx.example.org"]),
)
def test_whatever_is_asked_for_no_two_share_a_place(asked: list[Destination], url: str) -> None:
    network = NetworkPolicy(
        destinations=tuple(asked), callback=Callback.parse(url) if url else None
    )
    allocation = allocate(network)
    places = [(item.address, item.port) for item in allocation.listeners]
    assert len(set(places)) == len(places)
    assert all(ip_address(address).is_loopback for address, _ in places)
    assert len({item.name for item in allocation.listeners}) == len(places)
    assert len(set(allocation.hosts.values())) == len(allocation.hosts)
    assert allocation == allocate(network)
    reached = {item.route.destination for item in allocation.listeners if item.route is not None}
    proxied = bool(allocation.env)
    for destination in asked:
        assert destination in reached or proxied
