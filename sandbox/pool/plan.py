"""Decides which containers to boot ahead and which to stop: `plan(state, now) -> actions`.

Pure: no clock, no I/O, no randomness, and independent of the order of the functions. The decision
is a fixed point: after its actions, another plan at the same time has none.

A container serves one invocation, and replacing it takes a boot. So a function needs a stock:
enough containers, ready or booting, for the invocations that arrive within one boot. Level k of the
stock is worth the chance that k invocations arrive in that time, because that is how often an
invocation would wait without it. The rules, most urgent first:

1. A waiting invocation gets a container; functions with the fewest containers in use come first.
2. Every function gets its `min_warm`: the first level of all functions, then the second, and so on.
3. A level is kept if a use is expected within the budget's `idle` seconds. These seconds are its
   rent; a container of twice the usual memory has half of them. The level is booted shortly before
   the expected use, if the use is likely enough.
4. When there is no room, levels are compared by their chance, divided by memory, by k and by the
   containers in use: the twentieth container of a busy function gives way to the first one of a
   quiet function. An existing container gives way only to a start that is worth much more. When
   more starts are wanted than allowed at once, the function with the oldest last start comes first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sandbox.pool.admission import UNKNOWN_BOOT
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox.pool.arrivals import Arrivals

Reason = Literal["waiting", "minimum", "expected"]

# The memory of a container for which `idle` holds as it is; see rule 3.
USUAL_MEMORY: Final = 128 * MIB
# An existing container gives way to a start that is worth so many times as much. So a small change
# does not undo the last decision.
HYSTERESIS: Final = 3.0
# A container is booted only with at least this chance of use.
LEAST_USE: Final = 0.4
# The wait after a failed boot, in seconds; it doubles with each further failure in a row.
FIRST_BACK_OFF: Final = 1.0
LONGEST_BACK_OFF: Final = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """One version of a function: its limits, its containers and its arrivals.

    `memory` is in bytes. `boot_seconds` is smoothed, None before the first boot. `failed_at` is the
    time of the last of the `boot_failures` in a row, `started_at` the time of the last start. A
    `cold_only` function cannot wait for its request, so it is never booted ahead. `waiting` counts
    the invocations without a container.
    """

    key: str
    memory: int
    arrivals: Arrivals
    min_warm: int = 0
    max_warm: int = 16
    boot_seconds: float | None = None
    ready: int = 0
    booting: int = 0
    busy: int = 0
    waiting: int = 0
    boot_failures: int = 0
    failed_at: float = 0.0
    started_at: float = 0.0
    cold_only: bool = False

    @property
    def containers(self) -> int:
        return self.ready + self.booting + self.busy

    @property
    def stock(self) -> int:
        """How many containers no invocation waits for."""
        return max(0, self.ready + self.booting - self.waiting)

    @property
    def ahead(self) -> int:
        """How many containers boot ahead of any request."""
        return max(0, self.booting - max(0, self.waiting - self.ready))

    @property
    def idle(self) -> int:
        """How many containers can be stopped."""
        return max(0, self.ready - self.waiting)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The limits of all functions together.

    `containers` counts all containers, busy ones too. `memory` (bytes) is for the containers that
    no invocation waits for. `starts` is how many boot ahead at once; it never holds up a waiting
    invocation. `idle` (seconds) is how long a container may wait for a use.
    """

    containers: int
    memory: int
    starts: int
    idle: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A sum over functions: containers, those booting ahead, and the bytes of their stock."""

    containers: int = 0
    memory: int = 0
    booting: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolState:
    """The input of a plan.

    After a change it is enough to list the functions that changed, with the load of the others as
    `elsewhere`. They get the free room; only a plan of all functions takes room from others.
    """

    functions: Sequence[Demand]
    budget: Budget
    elsewhere: Load = Load()


@dataclass(frozen=True, slots=True)
class Start:
    """Create and boot one container of a function."""

    key: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Stop:
    """Destroy the `count` oldest ready containers of a function."""

    key: str
    count: int


Action = Start | Stop


class _Rank(NamedTuple):
    """How urgent a container is; lower comes first. `order` compares within one urgency."""

    urgency: int
    order: float
    key: str

    def outranks(self, other: _Rank) -> bool:
        """Whether a start of this rank may take the room of a container of the other."""
        if self.urgency == other.urgency == _EXPECTED:
            return self.order <= HYSTERESIS * other.order
        return self.urgency < other.urgency


_WAITING, _MINIMUM, _EXPECTED = range(3)
_REASONS: Final[tuple[Reason, ...]] = ("waiting", "minimum", "expected")


def plan(state: PoolState, now: float) -> list[Action]:
    """The actions at `now`: first the stops, then the starts, most urgent first.

    Carried out in this order, nothing exceeds the budget. `now` is on the arrivals' clock.
    """
    ledger = _Ledger(state)
    wanted: list[tuple[_Rank, Demand]] = []
    for demand in state.functions:
        chances, promising = _chances(demand, state.budget, now)
        keep = max(_minimum(demand), len(chances))
        for level in range(demand.stock, demand.stock - demand.idle, -1):
            if level > keep:
                ledger.stop(demand)
            else:
                ledger.may_stop(demand, level, chances)
        wanted.extend(
            (_Rank(_WAITING, demand.containers + place, demand.key), demand)
            for place in range(demand.waiting - demand.ready - demand.booting)
        )
        if now >= back_off_until(demand):
            levels = range(demand.stock + 1, max(_minimum(demand), promising) + 1)
            wanted.extend((_rank(demand, level, chances), demand) for level in levels)
    wanted.sort(key=_rank_of)  # makes the result independent of the functions' order
    wanted.sort(key=lambda item: _turn(item[0], item[1], now))
    ledger.settle()
    starts: list[Action] = [
        Start(demand.key, _REASONS[rank.urgency])
        for rank, demand in wanted
        if ledger.start(rank, demand)
    ]
    return [*ledger.stops(), *starts]


def load(functions: Iterable[Demand]) -> Load:
    """The load of `functions` in sum."""
    containers = memory = booting = 0
    for demand in functions:
        containers += demand.containers
        memory += demand.stock * demand.memory
        booting += demand.ahead
    return Load(containers=containers, memory=memory, booting=booting)


def back_off_until(demand: Demand) -> float:
    """Until when nothing is booted ahead for this function; -inf if no boot failed."""
    if not demand.boot_failures:
        return -inf
    # The exponent is bounded, lest the power overflow.
    doublings = min(demand.boot_failures - 1, 30)
    return demand.failed_at + min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2.0**doublings)


def _chances(demand: Demand, budget: Budget, now: float) -> tuple[list[float], int]:
    """The chance of use within a boot, of each level worth keeping; how many are worth a start."""
    if demand.cold_only or budget.idle <= 0:
        return [], 0
    arrivals, boot = demand.arrivals, _boot(demand)
    rent = demand.memory / USUAL_MEMORY / budget.idle
    outlook = arrivals.outlook(now, boot=boot, rent=rent)
    # The tail of a Poisson distribution at the present rate: it adapts faster than the groups do.
    mean = arrivals.rate(now) * boot
    term = exp(-mean)
    tail = 1.0 - term
    floor = rent * boot
    chances: list[float] = []
    promising = 0
    for level in range(1, demand.max_warm + 1):
        share = arrivals.share_of_groups(level)
        if share * outlook.rate < rent and tail < floor:
            break
        chances.append(max(tail, share * (1.0 - exp(-outlook.rate * boot))))
        expected = share * outlook.soon >= rent and share * outlook.use >= LEAST_USE
        if expected or tail >= 2.0 * floor:
            promising = level
        term *= mean / level
        tail = max(0.0, tail - term)
    return chances, promising


def _boot(demand: Demand) -> float:
    return UNKNOWN_BOOT if demand.boot_seconds is None else max(demand.boot_seconds, 0.001)


def _minimum(demand: Demand) -> int:
    return 0 if demand.cold_only else demand.min_warm


def _rank(demand: Demand, level: int, chances: Sequence[float]) -> _Rank:
    if level <= demand.min_warm:
        # Within one level, functions with fewer busy containers come first.
        return _Rank(_MINIMUM, level + min(demand.busy, 999) / 1000, demand.key)
    worth = chances[level - 1] / ((level + demand.busy) * max(1, demand.memory))
    return _Rank(_EXPECTED, -worth, demand.key)


def _turn(rank: _Rank, demand: Demand, now: float) -> tuple[float, ...]:
    """The order of starts: by worth, and by the time since the function's last start.

    So every function gets a share of the starts when there are too few.
    """
    age = max(0.0, now - demand.started_at)
    if rank.urgency == _EXPECTED:
        return rank.urgency, rank.order * age
    return rank.urgency, rank.order, -age


def _rank_of(item: tuple[_Rank, Demand]) -> _Rank:
    return item[0]


class _Ledger:
    """The budget that is left, and the containers that may be stopped to get more."""

    def __init__(self, state: PoolState) -> None:
        listed, elsewhere = load(state.functions), state.elsewhere
        budget = state.budget
        self._containers = budget.containers - listed.containers - elsewhere.containers
        self._memory = budget.memory - listed.memory - elsewhere.memory
        self._starts = budget.starts - listed.booting - elsewhere.booting
        self._stopped: Counter[str] = Counter()
        self._kept: list[tuple[Demand, int, Sequence[float]]] = []
        self._evicted: list[tuple[_Rank, Demand]] = []

    def stop(self, demand: Demand) -> None:
        """Stop one container of this function: it is worth nothing any more."""
        self._stopped[demand.key] += 1
        self._containers += 1
        self._memory += demand.memory

    def may_stop(self, demand: Demand, level: int, chances: Sequence[float]) -> None:
        """Note a ready container that may be stopped if something more urgent needs its room."""
        self._kept.append((demand, level, chances))

    def settle(self) -> None:
        """Stop what exceeds the budget. Call it after all containers are known."""
        while (self._containers < 0 or self._memory < 0) and self._stoppable:
            self._evict()

    def start(self, rank: _Rank, demand: Demand) -> bool:
        """Take room for a container, from less urgent ones if needed; False if there is none."""
        # A container for a waiting invocation is not warm stock, and waits for no other boot.
        memory = 0 if rank.urgency == _WAITING else demand.memory
        if (rank.urgency != _WAITING and self._starts <= 0) or not self._fits(rank, memory):
            return False
        while not _enough(self._containers, self._memory, memory):
            self._evict()
        self._containers -= 1
        self._memory -= memory
        if rank.urgency != _WAITING:
            self._starts -= 1
        return True

    def stops(self) -> list[Action]:
        """All stops that turned out to be needed."""
        for _, demand in sorted(self._evicted, key=_rank_of):
            if _enough(self._containers, self._memory, demand.memory):
                self._containers -= 1
                self._memory -= demand.memory
                self._stopped[demand.key] -= 1
        return [Stop(key, count) for key, count in sorted(self._stopped.items()) if count]

    @cached_property
    def _stoppable(self) -> list[tuple[_Rank, Demand]]:
        """Sorted, least urgent last. Made only when there is not room for all."""
        ranked = [(_rank(demand, level, chances), demand) for demand, level, chances in self._kept]
        return sorted(ranked, key=_rank_of)

    def _fits(self, rank: _Rank, memory: int) -> bool:
        """Whether there is room, or would be after stopping everything less urgent."""
        containers, free = self._containers, self._memory
        if _enough(containers, free, memory):
            return True
        for other, demand in reversed(self._stoppable):
            if _enough(containers, free, memory) or not rank.outranks(other):
                break
            containers += 1
            free += demand.memory
        return _enough(containers, free, memory)

    def _evict(self) -> None:
        rank, demand = self._stoppable.pop()
        self._evicted.append((rank, demand))
        self.stop(demand)


def _enough(containers: int, free: int, memory: int) -> bool:
    """Whether a container of so much memory fits. One that needs none fits beside a debt."""
    return containers >= 1 and (memory == 0 or free >= memory)
