"""Which containers to boot ahead of time, and which to let go: `plan(state, now) -> actions`.

Pure: no clock, no I/O, no randomness; the order of the functions means nothing. What it decides is
a fixed point: with the actions carried out, planning again at the same time asks for nothing.

A container serves one invocation, and takes a boot time to replace. So what a function needs is a
stock: enough containers, ready or booting, for what arrives within one boot time. Its level k is
worth the chance that k invocations arrive in that time, for that is how often somebody would wait
without it. The rules, most urgent first:

1. An invocation that waits gets a container, functions with the fewest in use first.
2. Every function has its `min_warm`, one level of everybody before the next level of anybody.
3. A level is worth keeping if it is to be used within the budget's `idle` seconds for each use: its
   rent. A container of twice the usual memory has half the time. It is booted when its time has
   come, and if it is likely enough to be used before it is not worth its rent any more.
4. Where there is no room, levels are compared: chance by memory, and divided by k and those
   in use, so that the twentieth of a busy function gives way to the first of a quiet one. A
   container that is there gives way only to a start worth much more. Where there are fewer starts
   at once than there is to start, who had none for longest is preferred.
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
# A container gives way to a start that is worth so many times as much: what is done is not undone
# at the next small change.
HYSTERESIS: Final = 3.0
# The chance of being used that a container must have to be booted.
LEAST_USE: Final = 0.4
# After a boot that failed, in seconds, doubled for each one more in a row.
FIRST_BACK_OFF: Final = 1.0
LONGEST_BACK_OFF: Final = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """One version of a function: what it is to have, what it has, and how it is asked for.

    `memory` is in bytes, `boot_seconds` smoothed, None before the first boot; `failed_at` is the
    time of the latest of the `boot_failures` in a row, `started_at` that of the latest start. A
    `cold_only` function cannot wait for its request, and is never booted ahead. `waiting` counts
    the invocations that have no container yet.
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
        """All it has, whatever they do."""
        return self.ready + self.booting + self.busy

    @property
    def stock(self) -> int:
        """Those that nobody waits for."""
        return max(0, self.ready + self.booting - self.waiting)

    @property
    def ahead(self) -> int:
        """Those that boot, and that nobody waits for."""
        return max(0, self.booting - max(0, self.waiting - self.ready))

    @property
    def idle(self) -> int:
        """Those that can be stopped."""
        return max(0, self.ready - self.waiting)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What all functions share.

    `containers` bounds all of them, busy ones too; `memory` (bytes) those that nobody waits for;
    `starts` how many boot at once if they are ahead of time (an invocation that waits is never
    held up by others' boots); `idle` (seconds) is how long a container may wait for its use.
    """

    containers: int
    memory: int
    starts: int
    idle: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Containers in sum: all of them, those booting, and the bytes of those nobody waits for."""

    containers: int = 0
    memory: int = 0
    booting: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolState:
    """What there is to decide about.

    After one function's change it is enough to list that one, with the load of the others as
    `elsewhere`: it gets what there is room for. Only a plan of all takes room from another.
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
    """Destroy the `count` ready containers of a function that have been ready for longest."""

    key: str
    count: int


Action = Start | Stop


class _Rank(NamedTuple):
    """How urgent a container is: the less, the more. `order` compares within one urgency."""

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
    """What to do at `now`: first the stops, then the starts, most urgent first.

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
    wanted.sort(key=_rank_of)  # the order of the functions means nothing
    wanted.sort(key=lambda item: _turn(item[0], item[1], now))
    ledger.settle()
    starts: list[Action] = [
        Start(demand.key, _REASONS[rank.urgency])
        for rank, demand in wanted
        if ledger.start(rank, demand)
    ]
    return [*ledger.stops(), *starts]


def load(functions: Iterable[Demand]) -> Load:
    """What `functions` have in sum."""
    containers = memory = booting = 0
    for demand in functions:
        containers += demand.containers
        memory += demand.stock * demand.memory
        booting += demand.ahead
    return Load(containers=containers, memory=memory, booting=booting)


def back_off_until(demand: Demand) -> float:
    """The time before which nothing is booted ahead for this function; -inf if nothing failed."""
    if not demand.boot_failures:
        return -inf
    # The exponent is bounded, lest the power overflow.
    doublings = min(demand.boot_failures - 1, 30)
    return demand.failed_at + min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2.0**doublings)


def _chances(demand: Demand, budget: Budget, now: float) -> tuple[list[float], int]:
    """For each level worth keeping, the chance of use within a boot; how many are worth a start."""
    if demand.cold_only or budget.idle <= 0:
        return [], 0
    arrivals, boot = demand.arrivals, _boot(demand)
    rent = demand.memory / USUAL_MEMORY / budget.idle
    outlook = arrivals.outlook(now, boot=boot, rent=rent)
    # The tail of a Poisson distribution at the present rate: learnt more quickly than groups are.
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
        # Of several on one level, first who uses less: those who use much ask all the time.
        return _Rank(_MINIMUM, level + min(demand.busy, 999) / 1000, demand.key)
    worth = chances[level - 1] / ((level + demand.busy) * max(1, demand.memory))
    return _Rank(_EXPECTED, -worth, demand.key)


def _turn(rank: _Rank, demand: Demand, now: float) -> tuple[float, ...]:
    """Whose start comes first: what is worth more, and what has waited longer for its turn.

    Where there are fewer starts than there is to start, everybody has a share in them.
    """
    age = max(0.0, now - demand.started_at)
    if rank.urgency == _EXPECTED:
        return rank.urgency, rank.order * age
    return rank.urgency, rank.order, -age


def _rank_of(item: tuple[_Rank, Demand]) -> _Rank:
    return item[0]


class _Ledger:
    """What is left of the budget, and which containers may be stopped to have more."""

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
        """One container of this function is worth nothing any more."""
        self._stopped[demand.key] += 1
        self._containers += 1
        self._memory += demand.memory

    def may_stop(self, demand: Demand, level: int, chances: Sequence[float]) -> None:
        """One ready container can be stopped if something more urgent needs its room."""
        self._kept.append((demand, level, chances))

    def settle(self) -> None:
        """After all containers are known: stop what exceeds the budget."""
        while (self._containers < 0 or self._memory < 0) and self._stoppable:
            self._evict()

    def start(self, rank: _Rank, demand: Demand) -> bool:
        """Take the room for a container, from others if need be; False if there is none."""
        # One that an invocation waits for is not warm, and is held up by no other's boot.
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
        """All stops, without those that turned out not to be needed."""
        for _, demand in sorted(self._evicted, key=_rank_of):
            if _enough(self._containers, self._memory, demand.memory):
                self._containers -= 1
                self._memory -= demand.memory
                self._stopped[demand.key] -= 1
        return [Stop(key, count) for key, count in sorted(self._stopped.items()) if count]

    @cached_property
    def _stoppable(self) -> list[tuple[_Rank, Demand]]:
        """The least urgent last. Not asked for, and not made, where there is room for all."""
        ranked = [(_rank(demand, level, chances), demand) for demand, level, chances in self._kept]
        return sorted(ranked, key=_rank_of)

    def _fits(self, rank: _Rank, memory: int) -> bool:
        """Whether there is room, or would be with everything less urgent stopped."""
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
    """Whether a container of so much memory fits; one without is not held up by a debt."""
    return containers >= 1 and (memory == 0 or free >= memory)
