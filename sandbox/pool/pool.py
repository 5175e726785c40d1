"""Instances, kept booted before they are asked, and the queue of those who wait for one.

Decisions are made under the lock; what the engine has to do for them is done by the launcher's
threads. What is to be booted or let go is decided by `sandbox.pool.plan`; this module carries it
out. `sandbox.pool.idle_listener` hears the instances that nobody uses: when they have booted, and
when they die.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandbox.engine.steps import WaitFor
from sandbox.errors import OverloadedError
from sandbox.pool.admission import QueueLimits, QueueState, Rejected, admit
from sandbox.pool.idle_listener import IdleListener
from sandbox.pool.plan import Budget, Load, PoolState, Start, load, plan
from sandbox.pool.version_pool import VersionPool, Waiter, smoothed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sandbox.cancellation import Cancellation
    from sandbox.config.settings import Settings
    from sandbox.containers.instance import Instance
    from sandbox.containers.launcher import Launcher
    from sandbox.deploy.deployer import Deployment
    from sandbox.engine.steps import Steps
    from sandbox.store.cold_functions import ColdFunctions

log = logging.getLogger(__name__)

# A start that takes longer than this, in seconds, does not hold up others.
_STALLED: Final = 5.0
# So many functions can be planned at every change; of more, only those that changed.
_FEW: Final = 32


class LateError(Exception):
    """The engine took too long; the turn had come at the time `granted_at`."""

    def __init__(self, granted_at: float) -> None:
        super().__init__("no container was made in time")
        self.granted_at = granted_at


class CancelledError(Exception):
    """The caller went away while its invocation waited."""


class Pool:
    """The instances of all functions. Safe to use from many threads.

    Without `ahead`, none is booted before somebody waits for it.
    """

    def __init__(
        self,
        launcher: Launcher,
        settings: Settings,
        *,
        cold_functions: ColdFunctions,
        ahead: bool = True,
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._ahead = ahead and settings.pool.enabled
        self._cold_functions = cold_functions
        starts = settings.pool.starts or max(1, (os.cpu_count() or 1) // 2)
        self._budget = Budget(
            containers=settings.pool.containers,
            memory=settings.pool.memory,
            starts=starts,
            idle=settings.pool.idle,
        )
        self._limits = QueueLimits(
            length=settings.queue.length, per_function=settings.queue.per_function
        )
        self._lock = threading.Lock()
        self._version_pools: dict[str, VersionPool] = {}
        # The version in force of each function, by name.
        self._versions: dict[str, VersionPool] = {}
        self._running = 0
        # Who is in a queue, and which of them have not had their turn yet.
        self._queued = 0
        self._waiting = 0
        # How long an invocation keeps its place, of late.
        self._hold_seconds: float | None = None
        self._changed: set[str] = set()
        self._closed = False
        self._idle_listener = IdleListener(overhear=self._overhear, tick=self._tick)
        launcher.on_removed = self._removed

    def acquire(
        self, deployment: Deployment, *, deadline: float, cancellation: Cancellation
    ) -> Steps[Instance]:
        """An instance of `deployment`, which is the caller's until `release`; it may still boot.

        `deadline` is in the time of `time.monotonic`.

        Raises:
            OverloadedError: the queue is full, or no place came free until the deadline.
            LateError: its turn came, but no container was made until the deadline.
            CancelledError: the caller went away meanwhile.
            SandboxError: the engine could not make one.
        """
        with self._lock:
            version_pool = self._version_pool(deployment)
            now = time.monotonic()
            version_pool.arrivals.note(now)
            if self._running < self._settings.concurrency and not self._waiting:
                instance = self._unpark(version_pool)
                if instance is not None:
                    self._running += 1
                    version_pool.busy += 1
                    instance.granted_at = now
                    return instance
            waiter = self._enqueue(version_pool, now, deadline)
            self._dispatch()
        wake = waiter.woken.set
        cancellation.on_cancel(wake)
        try:
            yield WaitFor(waiter.woken, deadline)
        except BaseException:  # Ctrl-C: what was made for it is nobody's now
            self._leave(version_pool, waiter)
            if waiter.instance is not None:
                self.release(waiter.instance, reusable=False, gently=False)
            raise
        finally:
            cancellation.forget(wake)
        self._leave(version_pool, waiter)
        if waiter.instance is not None:
            return waiter.instance
        if waiter.error is not None:
            raise waiter.error
        if cancellation.cancelled:
            raise CancelledError
        if waiter.granted:
            raise LateError(waiter.granted_at)
        raise OverloadedError(
            f"no container came free until the deadline ({self._settings.concurrency} places)",
            retry_after=1.0,
            hint="try again, or raise `concurrency` in the settings",
        )

    def release(self, instance: Instance, *, reusable: bool, gently: bool) -> None:
        """Give an instance back: kept if `reusable`, else removed; `gently` lets it end first."""
        with self._lock:
            version_pool = self._version_pools[instance.deployment.key]
            self._running -= 1
            version_pool.busy -= 1
            held = time.monotonic() - instance.granted_at
            self._hold_seconds = smoothed(self._hold_seconds, held)
            version_pool.run_seconds = smoothed(version_pool.run_seconds, held)
            kept = reusable and not version_pool.retired and instance.usable
            if kept:
                instance.renew()
                self._place(version_pool, instance)
            self._dispatch()
            if not kept:  # one that is kept leaves everything as it was before it was asked
                self._note_change(version_pool)
            self._forget_if_empty(version_pool)
        if not kept:
            self._launcher.discard(instance, gently=gently)

    def offer(self, instance: Instance) -> None:
        """Take an instance that has booted, of what is from now on its function's version."""
        with self._lock:
            version_pool = self._version_pool(instance.deployment)
            kept = self._ahead and not self._closed and instance.usable
            if kept:
                self._place(version_pool, instance)
            self._note_change(version_pool)
        if not kept:
            self._launcher.discard(instance)

    def keep(self, deployment: Deployment) -> None:
        """Keep as many of it booted as settings and manifest ask for; it is its version now."""
        with self._lock:
            self._note_change(self._version_pool(deployment))

    def retain(self, names: Collection[str]) -> None:
        """There are no functions but these: let go of what is kept for others."""
        with self._lock:
            for name in [name for name in self._versions if name not in names]:
                self._retire(self._versions.pop(name))

    def states(self) -> Mapping[str, Mapping[str, object]]:
        """Of each function by name: how many containers are ready, boot and are busy, who waits,
        and why none is booted ahead where that is so."""
        with self._lock:
            return {
                name: {
                    "version": version_pool.deployment.bundle.digest,
                    "ready": len(version_pool.ready),
                    "booting": version_pool.coming,
                    "busy": version_pool.busy,
                    "waiting": len(version_pool.waiters),
                    "cold_only": version_pool.cold_only or None,
                    "boot_failure": version_pool.failure or None,
                }
                for name, version_pool in self._versions.items()
            }

    def close(self) -> None:
        """Let go of all instances that nobody uses, and start no more. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for version_pool in list(self._version_pools.values()):
                self._retire(version_pool)
        self._idle_listener.close()

    def _leave(self, version_pool: VersionPool, waiter: Waiter) -> None:
        """A waiter's wait is over, well or not."""
        with self._lock:
            version_pool.waiters.remove(waiter)
            self._queued -= 1
            if not waiter.granted:
                self._waiting -= 1
            elif waiter.instance is None:
                self._running -= 1
                self._dispatch()
            self._forget_if_empty(version_pool)

    # Everything below is called with the lock held, but where it says otherwise.

    def _version_pool(self, deployment: Deployment) -> VersionPool:
        """The version_pool of this version, which is in force from now on."""
        version_pool = self._version_pools.get(deployment.key)
        if version_pool is None:
            version_pool = VersionPool(deployment.key, deployment, cold_only=deployment.cold_only)
            self._version_pools[deployment.key] = version_pool
        name = deployment.function.name
        before = self._versions.get(name)
        if before is not version_pool:
            self._versions[name] = version_pool
            version_pool.retired = False
            if before is not None:
                # How it is called does not change with its files.
                version_pool.arrivals, version_pool.boot_seconds = (
                    before.arrivals,
                    before.boot_seconds,
                )
                self._retire(before)
        return version_pool

    def _retire(self, version_pool: VersionPool) -> None:
        version_pool.retired = True
        while (instance := self._unpark(version_pool)) is not None:
            self._launcher.discard(instance)
        self._forget_if_empty(version_pool)

    def _forget_if_empty(self, version_pool: VersionPool) -> None:
        if version_pool.retired and not version_pool.containers and not version_pool.waiters:
            self._version_pools.pop(version_pool.key, None)

    def _enqueue(self, version_pool: VersionPool, now: float, deadline: float) -> Waiter:
        """Have an invocation wait, or refuse it at once where waiting cannot help."""
        queue = QueueState(
            waiting=self._waiting,
            waiting_here=sum(not waiter.granted for waiter in version_pool.waiters),
            busy=self._running,
            places=self._settings.concurrency,
            ready=len(version_pool.ready),
            boot=version_pool.boot_seconds,
            run=version_pool.run_seconds,
            hold=self._hold_seconds,
        )
        decision = admit(queue, self._limits, time_left=deadline - now)
        if isinstance(decision, Rejected):
            raise OverloadedError(
                decision.reason,
                retry_after=decision.retry_after,
                hint="try again later; the operator can raise `concurrency` or `queue`",
            )
        waiter = Waiter(now)
        version_pool.waiters.append(waiter)
        self._queued += 1
        self._waiting += 1
        return waiter

    def _dispatch(self) -> None:
        """Give turns to who waits, fewest in use first; and instances to whose turn it is."""
        while self._waiting and self._running < self._settings.concurrency:
            waiting = [
                (version_pool.load, waiter.since, version_pool, waiter)
                for version_pool in self._version_pools.values()
                if (
                    waiter := next(
                        (item for item in version_pool.waiters if not item.granted), None
                    )
                )
            ]
            _, _, version_pool, waiter = min(waiting, key=lambda item: item[:2])
            waiter.granted = True
            waiter.granted_at = time.monotonic()
            self._waiting -= 1
            self._running += 1
        if self._queued:
            for version_pool in self._version_pools.values():
                self._serve(version_pool)

    def _serve(self, version_pool: VersionPool) -> None:
        """Give instances to whose turn it is; start those that are missing."""
        while (waiter := version_pool.next_unserved()) is not None:
            instance = self._unpark(version_pool)
            if instance is None:
                break
            version_pool.hand(waiter, instance)
        for _ in range(version_pool.unserved - len(version_pool.launches) - version_pool.overheard):
            if self._containers() >= self._budget.containers:
                self._note_change(version_pool)  # the plan takes the room from somebody
                return
            self._start(version_pool)

    def _containers(self) -> int:
        in_use = sum(version_pool.containers for version_pool in self._version_pools.values())
        return in_use + self._launcher.removing

    def _unpark(self, version_pool: VersionPool) -> Instance | None:
        instance = version_pool.take()
        if instance is not None:
            self._idle_listener.ignore(instance)
        return instance

    def _place(self, version_pool: VersionPool, instance: Instance) -> None:
        """Give an instance to who waits for one, else keep it."""
        waiter = version_pool.next_unserved()
        if waiter is not None:
            version_pool.hand(waiter, instance)
            return
        version_pool.put(instance)
        self._idle_listener.listen(instance)

    def _removed(self) -> None:
        """A container is gone from the engine, and leaves room; without the lock."""
        if self._queued:
            with self._lock:
                self._dispatch()

    def _start(self, version_pool: VersionPool) -> None:
        now = time.monotonic()
        version_pool.started_at = now
        version_pool.launches.append(now)
        self._launcher.submit(lambda: self._launch(version_pool, now))

    def _launch(self, version_pool: VersionPool, since: float) -> None:
        """Make an instance for the version; in a thread of the launcher's, without the lock."""
        try:
            instance = self._launcher.launch(version_pool.deployment)
        except Exception as error:  # the edge of a thread; who waits for it raises it
            log.debug("could not launch %s", version_pool.deployment.function.name, exc_info=True)
            with self._lock:
                version_pool.launches.remove(since)
                self._launch_failed(version_pool, error)
            return
        with self._lock:
            version_pool.launches.remove(since)
            wanted = version_pool.next_unserved() is not None
            kept = wanted or (self._ahead and not version_pool.retired and instance.usable)
            if kept:
                self._place(version_pool, instance)
            elif instance.failure is not None:
                version_pool.failed(instance.failure.message, time.monotonic())
            self._note_change(version_pool)
            self._forget_if_empty(version_pool)
        if not kept:
            self._launcher.discard(instance)

    def _launch_failed(self, version_pool: VersionPool, error: Exception) -> None:
        version_pool.failed(str(error), time.monotonic())
        waiter = version_pool.next_unserved()
        if waiter is not None:
            waiter.error = error
            waiter.woken.set()
        self._note_change(version_pool)
        self._forget_if_empty(version_pool)

    def _note_change(self, version_pool: VersionPool) -> None:
        if self._ahead and not self._closed:
            self._changed.add(version_pool.key)
            self._idle_listener.wake()

    # In the keeper's thread; without the lock.

    def _tick(self, *, everything: bool) -> None:
        """Plan, for all functions or for those that changed."""
        try:
            with self._lock:
                self._expire_boots()
                if self._ahead and not self._closed and (everything or self._changed):
                    self._carry_out(everything=everything)
        except Exception:  # warm containers are a convenience
            log.exception("could not plan the pool")

    def _overhear(self, descriptor: int) -> None:
        """Take what an instance says that nobody uses."""
        with self._lock:
            instance = self._idle_listener.heard(descriptor)
            if instance is None:
                return  # it was taken a moment ago
            version_pool = self._version_pools[instance.deployment.key]
            version_pool.drop(instance)
            version_pool.overheard += 1
        was_ready = instance.ready
        instance.overhear()
        with self._lock:
            version_pool.overheard -= 1
            if instance.usable and not instance.spoke_unasked and not version_pool.retired:
                if instance.ready and not was_ready:
                    version_pool.booted(time.monotonic() - instance.created_at)
                    self._changed.add(version_pool.key)
                self._place(version_pool, instance)
                return
            lost = not version_pool.retired
            if lost:
                self._lose(version_pool, instance, was_ready=was_ready)
            self._serve(version_pool)
            self._forget_if_empty(version_pool)
        self._launcher.discard(instance)
        if lost and version_pool.cold_only:
            self._cold_functions.add(version_pool.deployment.source_digest, version_pool.cold_only)

    def _lose(self, version_pool: VersionPool, instance: Instance, *, was_ready: bool) -> None:
        """An instance has died, or spoken out of turn, before it was asked."""
        self._changed.add(version_pool.key)
        reason = instance.why_lost
        if instance.deployment.function.interface == "stdio" and instance.flood is None:
            version_pool.cold_only = reason
        elif not was_ready:
            version_pool.failed(reason, time.monotonic())

    def _expire_boots(self) -> None:
        """Let go of what takes too long to boot."""
        now = time.monotonic()
        for version_pool in list(self._version_pools.values()):
            while version_pool.booting and version_pool.booting[0].boot_deadline <= now:
                instance = version_pool.booting.popleft()
                self._idle_listener.ignore(instance)
                version_pool.failed(instance.why_lost, now)
                self._launcher.discard(instance)

    def _carry_out(self, *, everything: bool) -> None:
        """Plan, and do it; with the lock."""
        version_pools = list(self._version_pools.values())
        elsewhere = Load()
        demands = {
            version_pool.key: version_pool.demand(self._settings.pool.max_warm)
            for version_pool in version_pools
        }
        if not everything and len(version_pools) > _FEW:
            elsewhere = load(demands[key] for key in demands.keys() - self._changed)
            demands = {key: demands[key] for key in demands.keys() & self._changed}
        self._changed.clear()
        now = time.monotonic()
        # An engine may leave one start unanswered for long: others are not to wait for it.
        stalled = sum(
            now - since > _STALLED
            for version_pool in version_pools
            for since in version_pool.launches
        )
        budget = replace(self._budget, starts=self._budget.starts + stalled)
        state = PoolState(functions=list(demands.values()), budget=budget, elsewhere=elsewhere)
        for action in plan(state, now):
            version_pool = self._version_pools[action.key]
            if isinstance(action, Start):
                self._start(version_pool)
                continue
            for _ in range(action.count):
                instance = self._unpark(version_pool)
                if instance is not None:
                    self._launcher.discard(instance)
