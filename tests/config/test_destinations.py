"""Destinations: their one form, what covers what, and the callback's place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.config.destinations import Callback, Destination, NetworkPolicy

LABELS = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=2, max_size=5).map(".".join)
PORTS = st.integers(1, 65535)
NAMED = st.builds(Destination, HOSTS, PORTS)
WILDCARDS = st.builds(lambda host, port: Destination(f"*.{host}", port), HOSTS, PORTS)
ADDRESSES = st.builds(
    lambda address, port: Destination.parse(
        f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    ),
    st.ip_addresses(),
    PORTS,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example.ORG:443", "example.org:443"),
        ("example.org.:443", "example.org:443"),
        ("XN--MNCHEN-3YA.de:443", "xn--mnchen-3ya.de:443"),
        ("*.Example.org:0443", "*.example.org:443"),
        ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
    ],
)
def test_a_destination_has_one_form(text: str, expected: str) -> None:
    assert str(Destination.parse(text)) == expected


@pytest.mark.parametrize(
    "text", ["127.1:80", "0x7f000001:80", "2130706433:80", "10.0.0.256:80", "[::g]:80", "münchen.de:443",
             "*.1:80", "a.0x1:80"]
)  # fmt: skip
def test_nothing_passes_for_a_name_that_a_resolver_takes_for_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        Destination.parse(text)


@given(NAMED | WILDCARDS | ADDRESSES)
def test_what_is_written_is_read_back(destination: Destination) -> None:
    assert Destination.parse(str(destination)) == destination
    assert Destination.parse(str(destination).upper()) == destination


@given(st.text(max_size=80))
def test_any_text_is_a_destination_in_its_one_form_or_an_error(text: str) -> None:
    try:
        destination = Destination.parse(text)
    except ValueError:
        return
    assert Destination.parse(str(destination)) == destination


@given(NAMED | WILDCARDS | ADDRESSES)
def test_everything_covers_itself(destination: Destination) -> None:
    assert destination.covers(destination)


@given(HOSTS, LABELS, PORTS)
def test_a_wildcard_covers_names_below_it_and_not_itself(host: str, label: str, port: int) -> None:
    wildcard = Destination(f"*.{host}", port)
    assert wildcard.covers(Destination(f"{label}.{host}", port))
    assert wildcard.covers(Destination(f"*.{label}.{host}", port))
    assert not wildcard.covers(Destination(host, port))
    assert not wildcard.covers(Destination(f"{label}{host}", port))
    assert not wildcard.covers(Destination(f"{host}.{'z' * 10}", port))
    assert not wildcard.covers(Destination(f"{label}.{host}", port % 65535 + 1))


@given(NAMED | WILDCARDS | ADDRESSES, NAMED | WILDCARDS | ADDRESSES, NAMED | WILDCARDS)
def test_what_covers_another_covers_all_that_it_covers(
    first: Destination, second: Destination, third: Destination
) -> None:
    if first.covers(second) and second.covers(third):
        assert first.covers(third)


def test_a_name_does_not_cover_the_wildcard_above_it() -> None:
    assert not Destination("a.example.org", 443).covers(Destination("*.example.org", 443))


@pytest.mark.parametrize(
    ("setting", "told", "inside", "upstream"),
    [
        ("http://localhost:8090", "http://localhost:8090", "localhost:8090", "localhost:8090"),
        ("http://127.0.0.1:8090/a", "http://127.0.0.1:8090/a", "127.0.0.1:8090", "127.0.0.1:8090"),
        ("http://[::1]:8090", "http://localhost:8090", "localhost:8090", "[::1]:8090"),
        ("http://[::ffff:127.0.0.1]:81/", "http://localhost:81/", "localhost:81", "127.0.0.1:81"),
        ("http://Alyx.Example.org.:81/", "http://alyx.example.org:81/", "alyx.example.org:81", "alyx.example.org:81"),
        ("https://alyx.example.org", "https://alyx.example.org", "alyx.example.org:443", "alyx.example.org:443"),
        ("http://10.0.0.7/api?x=1", "http://alyx.internal:80/api?x=1", "alyx.internal:80", "10.0.0.7:80"),
        ("http://u:p@10.0.0.7:81", "http://u:p@alyx.internal:81", "alyx.internal:81", "10.0.0.7:81"),
        ("http://[2001:db8::1]:81", "http://alyx.internal:81", "alyx.internal:81", "[2001:db8::1]:81"),
    ],
)  # fmt: skip
def test_the_callback_has_a_name_that_functions_can_look_up(
    setting: str, told: str, inside: str, upstream: str
) -> None:
    callback = Callback.parse(setting)
    assert callback.url == told
    assert str(callback.destination) == inside
    assert str(callback.upstream) == upstream


@pytest.mark.parametrize(
    "url", ["alyx:8090", "ftp://alyx", "http://", "http://*.example.org", "/x"]
)
def test_a_callback_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|host"):
        Callback.parse(url)


def test_only_what_is_asked_for_has_a_route() -> None:
    policy = NetworkPolicy(
        destinations=(Destination.parse("api.example.org:443"), Destination.parse("*.x.org:80")),
        private=(Destination.parse("db.x.org:80"),),
        callback=Callback.parse("http://10.0.0.7:8090"),
    )
    route = policy.route(Destination("api.example.org", 443))
    assert route is not None
    assert not route.allow_private
    private = policy.route(Destination("db.x.org", 80))
    assert private is not None
    assert private.allow_private
    back = policy.route(Destination("alyx.internal", 8090))
    assert back is not None
    assert back.allow_private
    assert str(back.upstream) == "10.0.0.7:8090"
    for other in ("api.example.org:80", "*.x.org:80", "10.0.0.7:8090", "x.org:80"):
        assert policy.route(Destination.parse(other)) is None
