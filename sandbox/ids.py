"""Ids of requests and of tokens."""

from __future__ import annotations

import random

# Seeded by the kernel once: ids are no secrets, and have only to differ.
_source = random.Random()  # noqa: S311 - see above


def new_id(bits: int) -> str:
    """A new id: that many random bits, in hexadecimal digits."""
    return f"{_source.getrandbits(bits):0{bits // 4}x}"


def new_request_id() -> str:
    """An id for a request that came without one."""
    return f"req_{new_id(80)}"
