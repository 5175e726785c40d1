"""Looks up names as the gateway's host does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

# Gives a name's addresses, best first. Raises OSError if there are none.
Resolver = Callable[[str], Sequence[str]]


def system_resolver(host: str) -> list[str]:
    """The addresses that the host's own resolver gives. Blocks; raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))
