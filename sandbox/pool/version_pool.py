"""One version of a function in the pool: its containers, and the invocations that wait.

Data only; `Pool` holds the lock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox.latch import Latch
from sandbox.pool.arrivals import Arrivals
from sandbox.pool.plan import Demand

if TYPE_CHECKING:
    from sandbox.containers.instance import Instance
    from sandbox.deploy.deployer import Deployment

# The weight of the latest time in a smoothed time.
_SMOOTHING = 0.3


def smoothed(before: float | None, latest: float) -> float:
    """Exponential smoothing of times: `before` is the smoothed time so far."""
    return latest if before is None else before + _SMOOTHING * (latest - before)


class Waiter:
    """An invocation that waits for an instance, or for its turn to get one (`granted`)."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.granted = False
        self.granted_at = since
        self.instance: Instance | None = None
        self.error: Exception | None = None
        self.woken = Latch()

    @property
    def served(self) -> bool:
        return self.instance is not None or self.error is not None


@dataclass(eq=False)
class VersionPool:
    """The instances of one deployment. `key` is the deployment's.

    `launches` are the times (`time.monotonic`) at which the engine was asked for instances that it
    has not made yet. `inspecting` counts the idle instances whose output a thread reads just now.
    A `retired` version gets no more instances: another version has taken its place.
    """

    key: str
    deployment: Deployment
    arrivals: Arrivals = field(default_factory=Arrivals)
    ready: deque[Instance] = field(default_factory=deque)
    booting: deque[Instance] = field(default_factory=deque)
    waiters: deque[Waiter] = field(default_factory=deque)
    launches: list[float] = field(default_factory=list)
    inspecting: int = 0
    busy: int = 0
    boot_seconds: float | None = None
    run_seconds: float | None = None
    boot_failures: int = 0
    failed_at: float = 0.0
    started_at: float = 0.0
    failure: str = ""
    cold_only: str = ""
    retired: bool = False

    @property
    def coming(self) -> int:
        """How many instances are not ready yet."""
        return len(self.booting) + len(self.launches) + self.inspecting

    @property
    def containers(self) -> int:
        return len(self.ready) + self.coming + self.busy

    @property
    def unserved(self) -> int:
        """How many invocations have their turn and no instance yet."""
        return sum(waiter.granted and not waiter.served for waiter in self.waiters)

    @property
    def load(self) -> int:
        """Its share of what runs. The version with the lowest gets the next turn."""
        return self.busy + self.unserved

    def take(self) -> Instance | None:
        """The instance that has been ready for longest, else one that boots."""
        if self.ready:
            return self.ready.popleft()
        return self.booting.popleft() if self.booting else None

    def put(self, instance: Instance) -> None:
        if instance.requests:
            self.ready.appendleft(instance)  # the fresh ones stay fresh
        else:
            (self.ready if instance.ready else self.booting).append(instance)

    def drop(self, instance: Instance) -> None:
        for kept in (self.ready, self.booting):
            if instance in kept:
                kept.remove(instance)

    def assign(self, waiter: Waiter, instance: Instance) -> None:
        self.busy += 1
        instance.granted_at = waiter.granted_at
        waiter.instance = instance
        waiter.woken.set()

    def next_unserved(self) -> Waiter | None:
        """The waiter that gets the next instance."""
        return next((item for item in self.waiters if item.granted and not item.served), None)

    def booted(self, seconds: float) -> None:
        """Note a boot that went well, and how long it took."""
        self.boot_seconds = smoothed(self.boot_seconds, seconds)
        self.boot_failures = 0
        self.failure = ""

    def failed(self, reason: str, now: float) -> None:
        self.boot_failures += 1
        self.failed_at = now
        self.failure = reason

    def demand(self, max_warm: int) -> Demand:
        policy = self.deployment.policy
        # A container that serves several requests comes back, so it needs no replacement.
        returning = self.busy if self.deployment.reuse > 1 else 0
        return Demand(
            key=self.key,
            memory=policy.memory,
            arrivals=self.arrivals,
            min_warm=0 if self.retired else policy.warm,
            max_warm=0 if self.retired else max(max_warm, policy.warm),
            boot_seconds=self.boot_seconds,
            ready=len(self.ready) + returning,
            booting=self.coming,
            busy=self.busy - returning,
            waiting=self.unserved,
            boot_failures=self.boot_failures,
            failed_at=self.failed_at,
            started_at=self.started_at,
            cold_only=bool(self.cold_only) or self.retired,
        )
