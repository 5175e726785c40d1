"""Predicts a function's next invocations from the times of the earlier ones.

Invocations that arrive together, with no time to boot a container in between, are a group. The
model keeps three things in constant memory, and slowly forgets old data:

- the present rate of invocations, which decays within seconds;
- the pauses between groups: a histogram whose buckets grow with the pause. It learns "the burst is
  over" as well as "every five minutes" (after "Serverless in the Wild", USENIX ATC 2020);
- the sizes of groups: how many had at least 1, 2, 3, … invocations.

Times are seconds of any one clock, handed in. Not safe for threads.
"""

from __future__ import annotations

from itertools import accumulate
from math import exp, log2
from typing import Final, NamedTuple

# Invocations within so many seconds are a group: about as long as a boot takes.
AT_ONCE: Final = 0.25
# Larger groups count as this large.
MOST_AT_ONCE: Final = 128
# In so many seconds, the rate decays to a third.
RATE_HORIZON: Final = 10.0
# After so many pauses or groups, the weight of the old ones is halved.
MEMORY: Final = 64.0

# Buckets of pauses: so many for each doubling of the shortest, one for all above the longest.
PER_DOUBLING: Final = 8
_LAST: Final = 16 * PER_DOUBLING + 1
# Where each bucket begins, in seconds; the last one, at 4.5 hours, has no end.
_BOUNDS: Final = (0.0, *(AT_ONCE * 2 ** (step / PER_DOUBLING) for step in range(_LAST)))
LONGEST: Final = _BOUNDS[_LAST]

# The prior for an unknown function is a power law: the longer the pause so far, the longer it will
# last. It weighs as much as so many pauses on record.
PRIOR: Final = 1.0
PRIOR_EXPONENT: Final = 0.2
_PRIOR_SURVIVORS: Final = tuple(
    PRIOR * (max(bound, AT_ONCE) / AT_ONCE) ** -PRIOR_EXPONENT for bound in _BOUNDS
)


class Outlook(NamedTuple):
    """The prospects of a container that is ready now.

    `soon` is the expected number of groups per second until a container started now has booted.
    `rate` is the same over the best time to hold the container: the chance of use, divided by the
    seconds held. `use` is the chance that it is used before it is no longer worth its rent.
    """

    soon: float
    rate: float
    use: float


NOTHING: Final = Outlook(0.0, 0.0, 0.0)


class Arrivals:
    """A summary of when a function's invocations came. Times are seconds of one clock."""

    __slots__ = (
        "_at_least",
        "_group_began",
        "_group_size",
        "_last",
        "_outlook",
        "_outlook_of",
        "_pauses",
        "_rate",
        "_survivors",
        "_total",
    )  # fmt: skip

    def __init__(self) -> None:
        self._last: float | None = None
        self._group_began = 0.0
        self._group_size = 0
        # How many groups had at least 1, 2, 3, … invocations.
        self._at_least: list[float] = []
        # The decayed count of invocations, without the last one: a single invocation says nothing
        # about a rate.
        self._rate = 0.0
        self._pauses = [0.0] * (_LAST + 1)
        self._total = 0.0
        # How many pauses were at least as long as each bucket's beginning; empty until counted.
        self._survivors: list[float] = []
        # The last outlook, and its inputs: bucket, boot and rent.
        self._outlook = NOTHING
        self._outlook_of = (-1, 0.0, 0.0)

    def note(self, now: float) -> None:
        """Count an invocation, in constant time."""
        if self._last is None:
            self._begin_group(now)
        else:
            self._rate = (self._rate + 1.0) * exp(min(0.0, self._last - now) / RATE_HORIZON)
            pause = now - self._group_began
            if pause > AT_ONCE:
                self._note_pause(pause)
                self._begin_group(now)
        self._last = now
        if self._group_size < MOST_AT_ONCE:
            self._group_size += 1
            if self._group_size > len(self._at_least):
                self._at_least.append(0.0)
            self._at_least[self._group_size - 1] += 1.0

    def rate(self, now: float) -> float:
        """The present rate, in invocations per second."""
        if self._last is None or self._rate == 0.0:
            return 0.0
        return self._rate * exp(min(0.0, self._last - now) / RATE_HORIZON) / RATE_HORIZON

    def share_of_groups(self, size: int) -> float:
        """The share of groups with at least `size` invocations."""
        if size > len(self._at_least):
            return 0.0
        return self._at_least[size - 1] / self._at_least[0]

    def outlook(self, now: float, *, boot: float, rent: float) -> Outlook:
        """The outlook at `now`, if a container may be held for 1 / `rent` seconds per use.

        Starting one takes `boot` seconds. The answer stays the same while the present pause falls
        into the same bucket, so it is kept.
        """
        if self._last is None:
            return NOTHING
        of = (_bucket(now - self._group_began), boot, rent)
        if of != self._outlook_of:
            self._outlook_of = of
            self._outlook = self._look_ahead(*of)
        return self._outlook

    def _look_ahead(self, bucket: int, boot: float, rent: float) -> Outlook:
        if bucket == _LAST:
            return NOTHING
        if not self._survivors:
            counted = list(accumulate(reversed(self._pauses)))[::-1]
            self._survivors = [
                known + prior for known, prior in zip(counted, _PRIOR_SURVIVORS, strict=True)
            ]
        survivors = self._survivors
        alive = survivors[bucket]
        soon = rate = use = held = most = 0.0
        for later in range(bucket, _LAST):
            left, lasting = survivors[later + 1], (survivors[later] + survivors[later + 1]) / 2
            held += lasting / alive * (_BOUNDS[later + 1] - _BOUNDS[later])
            used = 1.0 - left / alive
            rate = max(rate, used / held)
            if _BOUNDS[later] - _BOUNDS[bucket] <= boot:
                soon = used / held
            if used - rent * held > most:
                most, use = used - rent * held, used
            if rent * held > 1.0:
                break  # from here on, holding it costs more than a use is worth
        return Outlook(soon, rate, use)

    def _begin_group(self, now: float) -> None:
        self._group_began = now
        self._group_size = 0
        if self._at_least and self._at_least[0] >= MEMORY:
            self._at_least = [weight / 2 for weight in self._at_least]

    def _note_pause(self, pause: float) -> None:
        bucket = _bucket(pause)
        # The neighbouring buckets get a part: pauses are seldom equal to the second.
        self._pauses[bucket] += 0.5
        self._pauses[max(0, bucket - 1)] += 0.25
        self._pauses[min(_LAST, bucket + 1)] += 0.25
        self._total += 1.0
        if self._total > MEMORY:
            self._pauses = [weight / 2 for weight in self._pauses]
            self._total /= 2
        self._survivors = []
        self._outlook_of = (-1, 0.0, 0.0)


def _bucket(pause: float) -> int:
    if pause < AT_ONCE:
        return 0
    if pause >= LONGEST:
        return _LAST
    return 1 + int(log2(pause / AT_ONCE) * PER_DOUBLING)
