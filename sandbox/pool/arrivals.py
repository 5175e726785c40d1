"""What a function's arrivals so far say about the next ones.

Three things are kept, in constant memory, all of them forgetting slowly:

- how fast invocations come now: a rate that decays within seconds;
- how long the pauses between them are: a histogram whose buckets grow with the pause. It gives
  the chance that an invocation comes now, given how long ago the last one was, so that it knows
  both "the burst is over" and "every five minutes" (the idea is that of "Serverless in the Wild",
  USENIX ATC 2020);
- how many come at once: how often one was followed by a second, a third and so on at once.

The clock is handed in: seconds, from any beginning. Not locked.
"""

from __future__ import annotations

from itertools import accumulate
from math import exp, log2
from typing import Final

# Seconds in which the rate forgets all but a third.
RATE_HORIZON: Final = 10.0
# Invocations that come within this many seconds come at once: no container boots in between.
AT_ONCE: Final = 0.5
# More at once than this are not told apart.
MOST_AT_ONCE: Final = 128
# Pauses and groups on record before the old ones lose half of their weight.
MEMORY: Final = 64.0

# Buckets of pauses: one for all below the shortest, then so many for each doubling, then one for
# all above the longest.
SHORTEST: Final = 0.125
DOUBLINGS: Final = 17
PER_DOUBLING: Final = 8
LONGEST: Final = SHORTEST * 2**DOUBLINGS  # 4.5 hours
_LAST: Final = DOUBLINGS * PER_DOUBLING + 1
# Where each bucket begins, in seconds; the last one has no end.
_BOUNDS: Final = (0.0, *(SHORTEST * 2 ** (step / PER_DOUBLING) for step in range(_LAST)))

# What is believed of a function of which nothing is known: the longer the pause so far, the longer
# it will be still, as a power law has it. It weighs as much as this many pauses on record.
PRIOR: Final = 1.0
PRIOR_EXPONENT: Final = 0.3
_PRIOR_SURVIVORS: Final = tuple(
    PRIOR * (max(bound, SHORTEST / 2) / (SHORTEST / 2)) ** -PRIOR_EXPONENT for bound in _BOUNDS
)


class Arrivals:
    """A summary of when a function's invocations came. Times are seconds of one clock."""

    __slots__ = ("_at_least", "_group_began", "_group_size", "_pauses", "_rate", "_survivors",
                 "_total", "last")  # fmt: skip

    def __init__(self) -> None:
        # When the latest one came.
        self.last: float | None = None
        self._rate = 0.0
        self._pauses = [0.0] * (_LAST + 1)
        self._total = 0.0
        # How many pauses were at least as long as each bucket's beginning; None: to be counted.
        self._survivors: list[float] | None = None
        self._group_began = float("-inf")
        self._group_size = 0
        # How many groups had at least 1, 2, 3, … invocations.
        self._at_least: list[float] = []

    def note(self, now: float) -> None:
        """An invocation has come. Takes the same short time whatever came before."""
        if self.last is not None:
            pause = max(0.0, now - self.last)
            self._rate *= exp(-pause / RATE_HORIZON)
            self._note_pause(pause)
        self._rate += 1.0
        self._note_group(now)
        self.last = now

    def rate(self, now: float) -> float:
        """Invocations a second, of late."""
        if self.last is None:
            return 0.0
        return self._rate * exp((self.last - now) / RATE_HORIZON) / RATE_HORIZON

    def hazard(self, now: float) -> float:
        """How many times a second the next one is to be expected, after the pause so far."""
        if self.last is None:
            return 0.0
        pause = max(0.0, now - self.last)
        bucket = _bucket(pause)
        if bucket == _LAST:
            return 0.0
        if self._survivors is None:
            self._survivors = self._count_survivors()
        longer, after = self._survivors[bucket], self._survivors[bucket + 1]
        begin, end = _BOUNDS[bucket], _BOUNDS[bucket + 1]
        density = (longer - after) / (end - begin)
        return density / (after + density * (end - pause))

    def chances(self, now: float, *, within: float, floor: float, most: int) -> list[float]:
        """The chance that at least 1, 2, 3, … invocations come `within` so many seconds.

        Falling; ends before the first that is below `floor`, and after `most`.
        """
        if self.last is None:
            return []
        # What the pauses and the groups say …
        one = 1.0 - exp(-self.hazard(now + within) * within)
        groups = self._at_least
        # … and the tail of a Poisson distribution at the present rate, which is quicker to learn.
        mean = self.rate(now) * within
        term = exp(-mean)
        tail = 1.0 - term
        found: list[float] = []
        for number in range(1, most + 1):
            chance = tail
            if number <= len(groups):
                chance = max(chance, one * groups[number - 1] / groups[0])
            if chance < floor:
                break
            found.append(chance)
            term *= mean / number
            tail = max(0.0, tail - term)
        return found

    def _note_pause(self, pause: float) -> None:
        bucket = _bucket(pause)
        # A part goes to the neighbours: pauses are seldom the same to the second.
        self._pauses[bucket] += 0.5
        self._pauses[max(0, bucket - 1)] += 0.25
        self._pauses[min(_LAST, bucket + 1)] += 0.25
        self._total += 1.0
        if self._total > MEMORY:
            self._pauses = [weight / 2 for weight in self._pauses]
            self._total /= 2
        self._survivors = None

    def _note_group(self, now: float) -> None:
        if now - self._group_began > AT_ONCE:
            self._group_began = now
            self._group_size = 0
        if self._group_size == MOST_AT_ONCE:
            return
        self._group_size += 1
        if self._group_size > len(self._at_least):
            self._at_least.append(0.0)
        self._at_least[self._group_size - 1] += 1.0
        if self._at_least[0] > MEMORY:
            self._at_least = [weight / 2 for weight in self._at_least]

    def _count_survivors(self) -> list[float]:
        counted = list(accumulate(reversed(self._pauses)))
        counted.reverse()
        return [known + prior for known, prior in zip(counted, _PRIOR_SURVIVORS, strict=True)]


def _bucket(pause: float) -> int:
    if pause < SHORTEST:
        return 0
    if pause >= LONGEST:
        return _LAST
    return 1 + int(log2(pause / SHORTEST) * PER_DOUBLING)
