"""The pool's decisions against a fixed keep-alive: `python -m benchmarks.simulate`.

No container runs; the clock is simulated. Both ways serve the same invocations, both with
containers that serve once:

    plan          sandbox.pool.plan, as the pool uses it: after each arrival for the function that
                  was called, and every two seconds for all
    keep-alive    after each arrival one container of the function is booted and kept for ten
                  minutes; at the memory cap the least recently used one is evicted

The keep-alive's memory cap is found by bisection, so that both use the same memory on average.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

import click

from sandbox.pool.arrivals import Arrivals
from sandbox.pool.plan import Budget, Demand, Load, PoolState, Start, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
KEEP_ALIVE = 600.0
# Between two plans of all functions, in seconds.
TICK = 2.0
BUDGET = Budget(containers=1 << 30, memory=1 << 60, starts=16, idle=600.0)


@dataclass(frozen=True)
class Workload:
    """A function as it is simulated; seconds and bytes."""

    key: str
    memory: int
    boot: float
    run: float


@dataclass(frozen=True)
class Trace:
    """Functions, and the arrivals of all of them in order: time and function. Warm-up first."""

    functions: dict[str, Workload]
    arrivals: list[tuple[float, str]]
    begin: float
    end: float


def make_trace(seed: int, *, functions: int = 1000, hours: float = 1.0, rate: float = 6.0) -> Trace:
    """Traffic as in public traces of serverless platforms: few functions get most of the calls.

    A quarter is called by the clock, a fifth in groups, the others at random, all those together
    about `rate` times a second. The first third of the time is there to learn from, and not
    counted.
    """
    chance = random.Random(seed)
    end = hours * 3600
    shares = [1 / (rank + 1) ** 1.1 for rank in range(functions)]
    known, arrivals = {}, []
    for number, share in enumerate(shares):
        key = f"f{number:04}"
        known[key] = Workload(
            key,
            memory=chance.choice([64, 128, 128, 128, 256, 512]) * MIB,
            boot=chance.uniform(0.15, 0.5),
            run=min(30.0, chance.lognormvariate(-2.0, 1.2)),
        )
        mean = 1 / (rate * share / sum(shares))
        kind = chance.random()
        if kind < 0.25:
            times = _by_the_clock(chance, end)
        elif kind < 0.45:
            times = _in_groups(chance, mean, end)
        else:
            times = _at_random(chance, mean, end)
        arrivals += [(time, key) for time in times if time < end]
    return Trace(known, sorted(arrivals), begin=end / 3, end=end)


def _at_random(chance: random.Random, mean: float, end: float) -> Iterator[float]:
    now = 0.0
    while (now := now + chance.expovariate(1 / mean)) < end:
        yield now


def _in_groups(chance: random.Random, mean: float, end: float) -> Iterator[float]:
    """Several at once, then a pause; some go on for a while."""
    size = chance.randint(2, 12)
    spread = chance.choice([0.05, 0.5, 20.0])
    for begin in _at_random(chance, mean * size, end):
        for _ in range(1 + int(chance.expovariate(1 / size))):
            yield begin + chance.uniform(0, spread)


def _by_the_clock(chance: random.Random, end: float) -> Iterator[float]:
    period = chance.choice([30, 60, 60, 300, 300, 600, 900, 1800])
    first = chance.uniform(0, period)
    for number in range(int(end / period) + 1):
        yield first + number * period + chance.expovariate(1 / 0.5)


@dataclass
class Outcome:
    """What one way came to. Delays in seconds, memory in bytes."""

    delays: list[float] = field(default_factory=list)
    cold: int = 0
    starts: int = 0
    average_memory: float = 0.0
    peak_memory: int = 0

    @property
    def cold_rate(self) -> float:
        """The share of the invocations that had to wait for a boot."""
        return self.cold / len(self.delays)

    def delay(self, share: float) -> float:
        """The delay that so large a share of the invocations stays within."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Function:
    """A function's containers while the simulation runs."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.arrivals = Arrivals()
        self.ready: deque[int] = deque()
        self.waiting: deque[float] = deque()
        self.booting = 0
        self.busy = 0
        self._demand: Demand | None = None

    def changed(self) -> None:
        """What the plan sees has to be made anew."""
        self._demand = None

    def demand(self) -> Demand:
        """As the plan sees it."""
        if self._demand is None:
            self._demand = self._make_demand()
        return self._demand

    def _make_demand(self) -> Demand:
        return Demand(
            key=self.workload.key,
            memory=self.workload.memory,
            arrivals=self.arrivals,
            max_warm=64,
            boot_seconds=self.workload.boot,
            ready=len(self.ready),
            booting=self.booting,
            busy=self.busy,
            waiting=len(self.waiting),
        )


class Simulation:
    """Containers, a clock and what happens next; what to boot is up to the policies below."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.now = 0.0
        self.functions = {key: Function(load) for key, load in trace.functions.items()}
        self.outcome = Outcome()
        self.memory = 0
        self.containers = 0
        self.booting = 0
        self._ids = count()
        self._on_booted: Callable[[Function], None] = lambda _: None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._byte_seconds = 0.0

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._ids), happen))

    def start(self, function: Function) -> None:
        """Boot one container."""
        function.booting += 1
        function.changed()
        self.booting += 1
        self._hold(function.workload.memory)
        if self.now >= self.trace.begin:
            self.outcome.starts += 1
        self.after(function.workload.boot, lambda: self._booted(function))

    def stop(self, function: Function) -> None:
        """Destroy the container that has been ready for longest."""
        function.ready.popleft()
        function.changed()
        self._hold(-function.workload.memory)

    def expire(self, function: Function, container: int) -> None:
        """Destroy one container, if nothing has been done with it."""
        if container in function.ready:
            function.ready.remove(container)
            self._hold(-function.workload.memory)

    def run(
        self, arrived: Callable[[Function], None], booted: Callable[[Function], None]
    ) -> Outcome:
        """Play the trace; `arrived` and `booted` are told of what happened."""
        self._on_booted = booted
        for time, key in self.trace.arrivals:
            while self._events and self._events[0][0] <= time:
                self._happen()
            self._move(time)
            function = self.functions[key]
            function.waiting.append(time)
            function.changed()
            self._serve(function)
            arrived(function)
        while self._events and self._events[0][0] <= self.trace.end:
            self._happen()
        self._move(self.trace.end)
        seconds = self.trace.end - self.trace.begin
        self.outcome.average_memory = self._byte_seconds / seconds
        return self.outcome

    def _happen(self) -> None:
        time, _, happen = heapq.heappop(self._events)
        self._move(time)
        happen()

    def _move(self, time: float) -> None:
        since = max(self.now, self.trace.begin)
        if time > since:
            self._byte_seconds += self.memory * (time - since)
        self.now = time

    def _hold(self, memory: int) -> None:
        self.memory += memory
        self.containers += 1 if memory > 0 else -1
        if self.now >= self.trace.begin:
            self.outcome.peak_memory = max(self.outcome.peak_memory, self.memory)

    def _booted(self, function: Function) -> None:
        function.booting -= 1
        function.changed()
        self.booting -= 1
        function.ready.append(next(self._ids))
        self._serve(function)
        self._on_booted(function)

    def _serve(self, function: Function) -> None:
        """Give the first that waits a container, if one is ready."""
        if not function.ready or not function.waiting:
            return
        function.ready.popleft()
        function.busy += 1
        function.changed()
        asked = function.waiting.popleft()
        if asked >= self.trace.begin:
            self.outcome.delays.append(self.now - asked)
            self.outcome.cold += self.now > asked
        self.after(function.workload.run, lambda: self._ended(function))

    def _ended(self, function: Function) -> None:
        function.busy -= 1
        function.changed()
        self._hold(-function.workload.memory)


def with_plan(trace: Trace, budget: Budget = BUDGET) -> Outcome:
    """The trace under `sandbox.pool.plan`."""
    simulation = Simulation(trace)
    functions = simulation.functions

    def act(state: PoolState) -> None:
        for action in plan(state, simulation.now):
            if isinstance(action, Start):
                simulation.start(functions[action.key])
            else:
                for _ in range(action.count):
                    simulation.stop(functions[action.key])

    def changed(function: Function) -> None:
        demand = function.demand()
        elsewhere = Load(
            containers=simulation.containers - demand.containers,
            memory=simulation.memory - demand.containers * demand.memory,
            booting=simulation.booting - demand.booting,
        )
        act(PoolState(functions=[demand], budget=budget, elsewhere=elsewhere))

    def arrived(function: Function) -> None:
        function.arrivals.note(simulation.now)
        changed(function)

    def tick() -> None:
        act(PoolState(functions=[one.demand() for one in functions.values()], budget=budget))
        simulation.after(TICK, tick)

    simulation.after(TICK, tick)
    return simulation.run(arrived, changed)


def with_keep_alive(trace: Trace, cap: int, seconds: float = KEEP_ALIVE) -> Outcome:
    """The trace under a fixed keep-alive with eviction of the least recently used."""
    simulation = Simulation(trace)
    # Ready containers are used in order, so the oldest of a function goes first; a function is
    # as recently used as its last arrival.
    last: dict[str, float] = {}

    def evict(wanted: int) -> None:
        while simulation.memory + wanted > cap:
            idle = [key for key in last if simulation.functions[key].ready]
            if not idle:
                return
            simulation.stop(simulation.functions[min(idle, key=last.__getitem__)])

    def start(function: Function) -> None:
        evict(function.workload.memory)
        simulation.start(function)

    def arrived(function: Function) -> None:
        workload = function.workload
        last[workload.key] = simulation.now
        if len(function.waiting) > function.booting:
            start(function)
        # Its successor, if there is room once the others have been evicted.
        evict(workload.memory)
        if simulation.memory + workload.memory <= cap:
            start(function)

    def booted(function: Function) -> None:
        if not function.ready:
            return
        container = function.ready[-1]

        simulation.after(seconds, lambda: simulation.expire(function, container))

    return simulation.run(arrived, booted)


def at_equal_memory(trace: Trace, average: float) -> Outcome:
    """The keep-alive at the memory cap with which it uses `average` bytes on average.

    Where it uses less without a cap, it keeps its containers for longer than ten minutes.
    """
    seconds, unbounded = KEEP_ALIVE, 1 << 60
    most = with_keep_alive(trace, unbounded, seconds)
    while most.average_memory < average and seconds < trace.end:
        seconds *= 2
        most = with_keep_alive(trace, unbounded, seconds)
    low, high = 0, most.peak_memory
    for _ in range(9):
        cap = (low + high) // 2
        if with_keep_alive(trace, cap, seconds).average_memory > average:
            high = cap
        else:
            low = cap
    return with_keep_alive(trace, high, seconds)


def compare(trace: Trace, budget: Budget) -> tuple[Outcome, Outcome]:
    """The plan, and the keep-alive with as much memory on average."""
    planned = with_plan(trace, budget)
    return planned, at_equal_memory(trace, planned.average_memory)


@click.command()
@click.option("--functions", default=1000, show_default=True)
@click.option("--hours", default=1.0, show_default=True, help="Simulated time.")
@click.option("--rate", default=6.0, show_default=True, help="Invocations a second.")
@click.option("--idle", default=600.0, show_default=True, help="The setting pool.idle, in seconds.")
@click.option("--seed", "seeds", default=[1], multiple=True, show_default=True)
def main(functions: int, hours: float, rate: float, idle: float, seeds: tuple[int, ...]) -> None:
    """Compare the pool's decisions with a fixed keep-alive at the same average memory."""
    click.echo("| seed | way | invocations | cold | p50 | p99 | mean | memory | peak | starts |")
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        trace = make_trace(seed, functions=functions, hours=hours, rate=rate)
        outcomes = compare(trace, replace(BUDGET, idle=idle))
        for way, outcome in zip(("plan", "keep-alive"), outcomes, strict=True):
            click.echo(f"| {seed} | {way} | {_row(outcome)} |")


def _row(outcome: Outcome) -> str:
    def milliseconds(seconds: float) -> str:
        return f"{seconds * 1000:.0f} ms"

    def gibibytes(size: float) -> str:
        return f"{size / 2**30:.1f} GiB"

    return " | ".join(
        (
            str(len(outcome.delays)),
            f"{outcome.cold_rate:.1%}",
            milliseconds(outcome.delay(0.5)),
            milliseconds(outcome.delay(0.99)),
            milliseconds(statistics.fmean(outcome.delays)),
            gibibytes(outcome.average_memory),
            gibibytes(outcome.peak_memory),
            str(outcome.starts),
        )
    )


if __name__ == "__main__":
    main()
