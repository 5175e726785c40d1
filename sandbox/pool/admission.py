"""Whether an invocation may wait for its container: `admit(queue, ...) -> Admitted | Rejected`.

Pure. An invocation that would wait in vain is refused at once, and told when to try again: an
early refusal costs the caller nothing, a late one costs the whole wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Where nothing has been measured yet, in seconds.
UNKNOWN_BOOT: Final = 0.5
UNKNOWN_RUN: Final = 0.1
# Bounds of the time that a refused caller is told to wait, in seconds.
SHORTEST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """The queue at the moment when an invocation of one function arrives; it is not counted.

    `waiting` and `waiting_here` count the invocations without a container, of all functions and
    of this one. `ready` counts this function's containers. `busy` invocations are served, at most
    `places` at once. `boot` and `run` are this function's smoothed times, `hold` is the time that
    an invocation of any function keeps its place; in seconds, None if not known.
    """

    waiting: int
    waiting_here: int
    busy: int
    places: int
    ready: int = 0
    boot: float | None = None
    run: float | None = None
    hold: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLimits:
    """How many invocations may wait, of all functions and of one; 0: none waits for a place."""

    length: int
    per_function: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """The invocation may wait; `wait` is the estimate, in seconds."""

    wait: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The invocation cannot be served in time. Try again after `retry_after` seconds."""

    retry_after: float
    reason: str


def expected_wait(queue: QueueState) -> float:
    """Seconds from now until a container begins to serve an invocation that comes now.

    First the wait for a place: when all are taken, one comes free every `hold / places` seconds,
    and earlier waiters take the first ones. Then a boot, unless a container is ready for it.
    """
    boot = UNKNOWN_BOOT if queue.boot is None else queue.boot
    hold = _hold(queue)
    before = queue.busy + queue.waiting - queue.places + 1
    place = max(0, before) * hold / max(1, queue.places)
    if queue.ready > queue.waiting_here:
        return place
    return place + boot


def admit(queue: QueueState, limits: QueueLimits, *, time_left: float) -> Admitted | Rejected:
    """Decide whether the invocation may wait; `time_left` (seconds) is what its deadline leaves.

    The deadline covers queue, boot and run. The estimate can be wrong, so an invocation that can be
    served at once is always admitted.
    """
    wait = expected_wait(queue)
    served_at_once = queue.busy + queue.waiting < queue.places
    if served_at_once:
        return Admitted(wait)
    if queue.waiting_here >= limits.per_function:
        return _rejected(queue, f"{queue.waiting_here} invocations of this function wait already")
    if queue.waiting >= limits.length:
        return _rejected(queue, f"{queue.waiting} invocations wait already")
    run = UNKNOWN_RUN if queue.run is None else queue.run
    if wait + run > time_left:
        return _rejected(
            queue,
            f"it would be answered in about {wait + run:.1f}s, and its time limit "
            f"leaves {max(0.0, time_left):.1f}s",
        )
    return Admitted(wait)


def _rejected(queue: QueueState, reason: str) -> Rejected:
    # By then, half of the present waiters have been served.
    drained = queue.waiting / 2 * _hold(queue) / max(1, queue.places)
    return Rejected(min(LONGEST_RETRY, max(SHORTEST_RETRY, drained)), reason)


def _hold(queue: QueueState) -> float:
    return UNKNOWN_BOOT + UNKNOWN_RUN if queue.hold is None else queue.hold
