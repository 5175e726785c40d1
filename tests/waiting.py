"""Waiting for what has to come true, instead of sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    *,
    seconds: float = 60,
    message: Callable[[], object] = lambda: "the condition did not come true",
) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.02)
