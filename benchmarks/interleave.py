"""Measuring several ways side by side, round by round.

Noise of the machine then affects all of them alike, and their ratios are compared.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.context import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class NotCountedError(Exception):
    """The invocation succeeded, but not in the way that is measured."""


@dataclass(frozen=True)
class Way:
    """One way to do something; it has its turn in every `every`th round.

    `prepare` runs before each turn, untimed. `call` raises if it failed.
    """

    name: str
    call: Callable[[], object]
    prepare: Callable[[], object]
    every: int = 1
    note: str = ""


def interleaved(ways: Sequence[Way], rounds: int, *, seed: int = 1) -> dict[str, list[float]]:
    """Milliseconds by way. The order changes; the first round only warms caches."""
    order = random.Random(seed)
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds + 1):
        turns = [way for way in ways if number % way.every == 0]
        order.shuffle(turns)
        for way in turns:
            way.prepare()
            with contextlib.suppress(NotCountedError):
                took = timed(way.call)
                if number:
                    times[way.name].append(took)
    return times
