"""Parses what a client sends to the proxy: one `CONNECT host:port` and nothing else. Pure.

The function writes all of it, so none of it is trusted.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from sandbox.config.destinations import Destination
from sandbox.documents.problems import shown

HEADER_END: Final = b"\r\n\r\n"
MAX_HEADER: Final = 8 * 1024
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,32}) ([\x21-\x7e]{1,2048}) HTTP/1\.[01]")

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ProxyError(Exception):
    """The proxy refuses with `status`. `target` is the destination asked for, safe to show."""

    def __init__(self, status: HTTPStatus, reason: str, *, target: str = "proxy") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.target = target


def parse_connect(header: bytes) -> Destination:
    """The destination that a request header, up to its empty line, asks for.

    Raises:
        ProxyError: it is no CONNECT request.
    """
    match = _REQUEST_LINE.fullmatch(header.partition(b"\r\n")[0])
    if match is None:
        raise ProxyError(HTTPStatus.BAD_REQUEST, "is no HTTP request")
    target = match[2].decode()
    if match[1] != b"CONNECT":
        raise ProxyError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "the proxy takes only CONNECT: use https",
            target=shown(target),
        )
    try:
        destination = Destination.parse(target)
    except ValueError as error:
        raise ProxyError(HTTPStatus.BAD_REQUEST, str(error), target=shown(target)) from None
    if destination.is_wildcard:
        raise ProxyError(HTTPStatus.BAD_REQUEST, "is no single host", target=str(destination))
    return destination


def answer(status: HTTPStatus, reason: str) -> bytes:
    """A complete answer that refuses, with the reason as its text."""
    body = f"{reason}\n".encode()
    allow = "Allow: CONNECT\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n{allow}Connection: close\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
