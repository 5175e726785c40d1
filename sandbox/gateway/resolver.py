"""Names to addresses, as the gateway's host sees them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

# A name's addresses, best first. Raises OSError where there are none.
Resolver = Callable[[str], Sequence[str]]


def system_resolver(host: str) -> list[str]:
    """The addresses that the host's own resolver gives. Blocks; raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))
