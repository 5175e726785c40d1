"""What the pool keeps for one version of a function: its containers, and who waits for one.

Only data, and what follows from it; `sandbox.pool.pool` holds the lock.
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

# How much the latest time counts in a smoothed one.
_SMOOTHING = 0.3


def smoothed(before: float | None, latest: float) -> float:
    """A time of late: `latest`, and what it was `before`."""
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
        """Whether the wait is over."""
        return self.instance is not None or self.error is not None


@dataclass(eq=False)
class VersionPool:
    """The instances of one deployment. `key` is the deployment's.

    `launches` are those that the engine makes, by the time of `time.monotonic` when that began;
    `overheard` counts those that a thread looks at just now. A `retired` version gets no more of
    them: another version has taken its place.
    """

    key: str
    deployment: Deployment
    arrivals: Arrivals = field(default_factory=Arrivals)
    ready: deque[Instance] = field(default_factory=deque)
    booting: deque[Instance] = field(default_factory=deque)
    waiters: deque[Waiter] = field(default_factory=deque)
    launches: list[float] = field(default_factory=list)
    overheard: int = 0
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
        """Those that are not ready yet."""
        return len(self.booting) + len(self.launches) + self.overheard

    @property
    def containers(self) -> int:
        """All it has, whatever they do."""
        return len(self.ready) + self.coming + self.busy

    @property
    def unserved(self) -> int:
        """Invocations whose turn it is and that have no instance yet."""
        return sum(waiter.granted and not waiter.served for waiter in self.waiters)

    @property
    def load(self) -> int:
        """Its share of what runs: the less, the sooner it is its turn."""
        return self.busy + self.unserved

    def take(self) -> Instance | None:
        """The instance that has waited for longest, else one that boots."""
        if self.ready:
            return self.ready.popleft()
        return self.booting.popleft() if self.booting else None

    def put(self, instance: Instance) -> None:
        """Keep an instance that nobody uses."""
        if instance.asked:
            self.ready.appendleft(instance)  # those that were never asked stay what they are
        else:
            (self.ready if instance.ready else self.booting).append(instance)

    def drop(self, instance: Instance) -> None:
        """Take out an instance that nobody uses."""
        for kept in (self.ready, self.booting):
            if instance in kept:
                kept.remove(instance)

    def hand(self, waiter: Waiter, instance: Instance) -> None:
        """Give an instance, which nobody uses, to who waits for one."""
        self.busy += 1
        instance.granted_at = waiter.granted_at
        waiter.instance = instance
        waiter.woken.set()

    def next_unserved(self) -> Waiter | None:
        """The invocation that gets the next instance."""
        return next((item for item in self.waiters if item.granted and not item.served), None)

    def booted(self, seconds: float) -> None:
        """A boot went well."""
        self.boot_seconds = smoothed(self.boot_seconds, seconds)
        self.boot_failures = 0
        self.failure = ""

    def failed(self, reason: str, now: float) -> None:
        """A boot ahead of time failed."""
        self.boot_failures += 1
        self.failed_at = now
        self.failure = reason

    def demand(self, max_warm: int) -> Demand:
        """What `sandbox.pool.plan` decides by."""
        policy = self.deployment.policy
        # Containers that serve several requests come back: none has to be booted in their place.
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
