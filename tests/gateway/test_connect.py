"""The proxy's requests: one CONNECT, and nothing else, whatever the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.config.destinations import Destination
from sandbox.gateway.connect import ProxyError, answer, parse_connect


def test_a_connect_names_its_destination() -> None:
    header = b"CONNECT API.example.org.:443 HTTP/1.1\r\nHost: other.example.org:443\r\nX: y"
    assert parse_connect(header) == Destination("api.example.org", 443)
    assert parse_connect(b"CONNECT [::1]:80 HTTP/1.0") == Destination("::1", 80)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"GET http://example.org/ HTTP/1.1", 405),
        (b"POST / HTTP/1.1", 405),
        (b"CONNECT example.org HTTP/1.1", 400),
        (b"CONNECT example.org:443", 400),
        (b"CONNECT example.org:443 HTTP/2", 400),
        (b"CONNECT  example.org:443 HTTP/1.1", 400),
        (b"CONNECT *.example.org:443 HTTP/1.1", 400),
        (b"CONNECT http://example.org:443 HTTP/1.1", 400),
        (b"CONNECT user@example.org:443 HTTP/1.1", 400),
        (b"CONNECT ex\xc3\xa4mple.org:443 HTTP/1.1", 400),
        (b"CONNECT example.org:443 HTTP/1.1\nHost: x", 400),
        (b"CONNECT 127.1:443 HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"", 400),
    ],
)
def test_everything_else_is_refused(header: bytes, status: int) -> None:
    with pytest.raises(ProxyError) as error:
        parse_connect(header)
    assert error.value.status == status


@given(
    st.binary(max_size=300) | st.binary(max_size=80).map(lambda x: b"CONNECT " + x + b" HTTP/1.1")
)
def test_any_bytes_are_a_destination_or_a_refusal_that_is_safe_to_show(header: bytes) -> None:
    try:
        refused, destination = None, parse_connect(header)
    except ProxyError as error:
        refused, destination = error, None
    assert destination is None or not destination.is_wildcard
    if refused is not None:
        assert refused.target.isprintable()
        assert answer(refused.status, refused.reason).startswith(b"HTTP/1.1 4")
