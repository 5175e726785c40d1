"""`Pool`: containers that are booted ahead of requests, and the queue of invocations.

`sandbox.pool.plan` decides which containers to start and to stop; this module carries it out. It
decides under its lock, and leaves all calls to the engine to the launcher's threads. The idle
listener tells it when an idle container has booted, has written or has died.
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

# After so many seconds, a start no longer counts against the limit of starts at once.
_STALLED: Final = 5.0
# With more functions than this, a change plans only the functions that changed.
_FEW: Final = 32


class LateError(Exception):
    """The invocation had its turn at `granted_at`, but the engine made no container in time."""

    def __init__(self, granted_at: float) -> None:
        super().__init__("no container was made in time")
        self.granted_at = granted_at


class CancelledError(Exception):
    """The caller went away while its invocation waited."""


class Pool:
    """The containers of all functions. Safe to use from many threads.

    Without `ahead`, it boots a container only when an invocation waits for one.
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
        # Invocations in a queue, and those of them that have not had their turn yet.
        self._queued = 0
        self._waiting = 0
        # How long an invocation kept its place lately (smoothed).
        self._hold_seconds: float | None = None
        self._changed: set[str] = set()
        self._closed = False
        self._idle_listener = IdleListener(on_output=self._on_output, on_change=self._on_change)
        launcher.on_removed = self._removed

    def acquire(
        self, deployment: Deployment, *, deadline: float, cancellation: Cancellation
    ) -> Steps[Instance]:
        """An instance of `deployment` for the caller until `release`. It may still be booting.

        `deadline` is on the clock of `time.monotonic`.

        Raises:
            OverloadedError: the queue is full, or no place came free until the deadline.
            LateError: its turn came, but no container was made until the deadline.
            CancelledError: the caller went away meanwhile.
            SandboxError: the engine could not make one.
        """
        with self._lock:
            version = self._version_pool(deployment)
            now = time.monotonic()
            version.arrivals.note(now)
            if self._running < self._settings.concurrency and not self._waiting:
                instance = self._unpark(version)
                if instance is not None:
                    self._running += 1
                    version.busy += 1
                    instance.granted_at = now
                    return instance
            waiter = self._enqueue(version, now, deadline)
            self._dispatch()
        wake = waiter.woken.set
        cancellation.on_cancel(wake)
        try:
            yield WaitFor(waiter.woken, deadline)
        except BaseException:  # Ctrl-C: nobody will use the instance that was made for it
            self._leave(version, waiter)
            if waiter.instance is not None:
                self.release(waiter.instance, reusable=False, let_finish=False)
            raise
        finally:
            cancellation.forget(wake)
        self._leave(version, waiter)
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

    def release(self, instance: Instance, *, reusable: bool, let_finish: bool) -> None:
        """Give an instance back. It is kept if `reusable`, else removed: see `Launcher.discard`."""
        with self._lock:
            version = self._version_pools[instance.deployment.key]
            self._running -= 1
            version.busy -= 1
            held = time.monotonic() - instance.granted_at
            self._hold_seconds = smoothed(self._hold_seconds, held)
            version.run_seconds = smoothed(version.run_seconds, held)
            kept = reusable and not version.retired and instance.usable
            if kept:
                instance.renew()
                self._place(version, instance)
            self._dispatch()
            if not kept:  # an instance that is kept changes nothing that the plan looks at
                self._note_change(version)
            self._forget_if_empty(version)
        if not kept:
            self._launcher.discard(instance, let_finish=let_finish)

    def add(self, instance: Instance) -> None:
        """Keep an instance that has booted. Its version serves the function from now on."""
        with self._lock:
            version = self._version_pool(instance.deployment)
            kept = self._ahead and not self._closed and instance.usable
            if kept:
                self._place(version, instance)
            self._note_change(version)
        if not kept:
            self._launcher.discard(instance)

    def keep_warm(self, deployment: Deployment) -> None:
        """Keep as many booted as settings and manifest ask for. This version serves from now on."""
        with self._lock:
            self._note_change(self._version_pool(deployment))

    def retain(self, names: Collection[str]) -> None:
        """Remove the idle containers of all other functions: they are gone."""
        with self._lock:
            for name in [name for name in self._versions if name not in names]:
                self._retire(self._versions.pop(name))

    def states(self) -> Mapping[str, Mapping[str, object]]:
        """By function: how many containers are ready, boot and are busy, how many invocations wait,
        and why none is booted ahead, if so."""
        with self._lock:
            return {
                name: {
                    "version": version.deployment.bundle.digest,
                    "ready": len(version.ready),
                    "booting": version.coming,
                    "busy": version.busy,
                    "waiting": len(version.waiters),
                    "cold_only": version.cold_only or None,
                    "boot_failure": version.failure or None,
                }
                for name, version in self._versions.items()
            }

    def close(self) -> None:
        """Remove all idle instances, and start no more. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for version in list(self._version_pools.values()):
                self._retire(version)
        self._idle_listener.close()

    def _leave(self, version: VersionPool, waiter: Waiter) -> None:
        """Take a waiter out of its queue, whether it got an instance or not."""
        with self._lock:
            version.waiters.remove(waiter)
            self._queued -= 1
            if not waiter.granted:
                self._waiting -= 1
            elif waiter.instance is None:
                self._running -= 1
                self._dispatch()
            self._forget_if_empty(version)

    # Call everything below with the lock held, unless it says otherwise.

    def _version_pool(self, deployment: Deployment) -> VersionPool:
        """The pool of this version, which serves the function from now on."""
        version = self._version_pools.get(deployment.key)
        if version is None:
            version = VersionPool(deployment.key, deployment, cold_only=deployment.cold_only)
            self._version_pools[deployment.key] = version
        name = deployment.function.name
        before = self._versions.get(name)
        if before is not version:
            self._versions[name] = version
            version.retired = False
            if before is not None:
                # An edit does not change how often a function is called.
                version.arrivals = before.arrivals
                version.boot_seconds = before.boot_seconds
                self._retire(before)
        return version

    def _retire(self, version: VersionPool) -> None:
        version.retired = True
        while (instance := self._unpark(version)) is not None:
            self._launcher.discard(instance)
        self._forget_if_empty(version)

    def _forget_if_empty(self, version: VersionPool) -> None:
        if version.retired and not version.containers and not version.waiters:
            self._version_pools.pop(version.key, None)

    def _enqueue(self, version: VersionPool, now: float, deadline: float) -> Waiter:
        """Let an invocation wait, or refuse it at once if it would wait in vain."""
        queue = QueueState(
            waiting=self._waiting,
            waiting_here=sum(not waiter.granted for waiter in version.waiters),
            busy=self._running,
            places=self._settings.concurrency,
            ready=len(version.ready),
            boot=version.boot_seconds,
            run=version.run_seconds,
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
        version.waiters.append(waiter)
        self._queued += 1
        self._waiting += 1
        return waiter

    def _dispatch(self) -> None:
        """Give turns to waiters, fewest containers in use first; then give out instances."""
        while self._waiting and self._running < self._settings.concurrency:
            waiting = [
                (version.load, waiter.since, version, waiter)
                for version in self._version_pools.values()
                if (waiter := next((item for item in version.waiters if not item.granted), None))
            ]
            _, _, version, waiter = min(waiting, key=lambda item: item[:2])
            waiter.granted = True
            waiter.granted_at = time.monotonic()
            self._waiting -= 1
            self._running += 1
        if self._queued:
            for version in self._version_pools.values():
                self._serve(version)

    def _serve(self, version: VersionPool) -> None:
        """Give instances to waiters that have their turn; start the ones that are missing."""
        while (waiter := version.next_unserved()) is not None:
            instance = self._unpark(version)
            if instance is None:
                break
            version.assign(waiter, instance)
        for _ in range(version.unserved - len(version.launches) - version.inspecting):
            if self._containers() >= self._budget.containers:
                self._note_change(version)  # the plan makes room
                return
            self._start(version)

    def _containers(self) -> int:
        in_use = sum(version.containers for version in self._version_pools.values())
        return in_use + self._launcher.removing

    def _unpark(self, version: VersionPool) -> Instance | None:
        instance = version.take()
        if instance is not None:
            self._idle_listener.unregister(instance)
        return instance

    def _place(self, version: VersionPool, instance: Instance) -> None:
        """Give an instance to the next waiter; if there is none, keep it."""
        waiter = version.next_unserved()
        if waiter is not None:
            version.assign(waiter, instance)
            return
        version.put(instance)
        self._idle_listener.register(instance)

    def _removed(self) -> None:
        """The engine has removed a container, so there is room. Called without the lock."""
        if self._queued:
            with self._lock:
                self._dispatch()

    def _start(self, version: VersionPool) -> None:
        now = time.monotonic()
        version.started_at = now
        version.launches.append(now)
        self._launcher.submit(lambda: self._launch(version, now))

    def _launch(self, version: VersionPool, since: float) -> None:
        """Make an instance. Called in a thread of the launcher, without the lock."""
        try:
            instance = self._launcher.launch(version.deployment)
        except Exception as error:  # the edge of a thread; the waiter raises it
            log.debug("could not launch %s", version.deployment.function.name, exc_info=True)
            with self._lock:
                version.launches.remove(since)
                self._launch_failed(version, error)
            return
        with self._lock:
            version.launches.remove(since)
            wanted = version.next_unserved() is not None
            kept = wanted or (self._ahead and not version.retired and instance.usable)
            if kept:
                self._place(version, instance)
            elif instance.failure is not None:
                version.failed(instance.failure.message, time.monotonic())
            self._note_change(version)
            self._forget_if_empty(version)
        if not kept:
            self._launcher.discard(instance)

    def _launch_failed(self, version: VersionPool, error: Exception) -> None:
        version.failed(str(error), time.monotonic())
        waiter = version.next_unserved()
        if waiter is not None:
            waiter.error = error
            waiter.woken.set()
        self._note_change(version)
        self._forget_if_empty(version)

    def _note_change(self, version: VersionPool) -> None:
        if self._ahead and not self._closed:
            self._changed.add(version.key)
            self._idle_listener.wake()

    # The idle listener's thread calls these, without the lock.

    def _on_change(self, *, everything: bool) -> None:
        """Plan all functions, or the ones that changed."""
        try:
            with self._lock:
                self._expire_boots()
                if self._ahead and not self._closed and (everything or self._changed):
                    self._carry_out(everything=everything)
        except Exception:  # warm containers are a convenience
            log.exception("could not plan the pool")

    def _on_output(self, descriptor: int) -> None:
        """Read what an idle instance wrote."""
        with self._lock:
            instance = self._idle_listener.take(descriptor)
            if instance is None:
                return  # an invocation got it a moment ago
            version = self._version_pools[instance.deployment.key]
            version.drop(instance)
            version.inspecting += 1
        was_ready = instance.ready
        instance.read_idle_output()
        with self._lock:
            version.inspecting -= 1
            if instance.usable and not instance.answered_unasked and not version.retired:
                if instance.ready and not was_ready:
                    version.booted(time.monotonic() - instance.created_at)
                    self._changed.add(version.key)
                self._place(version, instance)
                return
            lost = not version.retired
            if lost:
                self._lose(version, instance, was_ready=was_ready)
            self._serve(version)
            self._forget_if_empty(version)
        self._launcher.discard(instance)
        if lost and version.cold_only:
            self._cold_functions.add(version.deployment.source_digest, version.cold_only)

    def _lose(self, version: VersionPool, instance: Instance, *, was_ready: bool) -> None:
        """An idle instance has died, or has answered without a request."""
        self._changed.add(version.key)
        reason = instance.why_unusable
        if instance.deployment.function.interface == "stdio" and instance.flood is None:
            version.cold_only = reason
        elif not was_ready:
            version.failed(reason, time.monotonic())

    def _expire_boots(self) -> None:
        now = time.monotonic()
        for version in list(self._version_pools.values()):
            while version.booting and version.booting[0].boot_deadline <= now:
                instance = version.booting.popleft()
                self._idle_listener.unregister(instance)
                version.failed(instance.why_unusable, now)
                self._launcher.discard(instance)

    def _carry_out(self, *, everything: bool) -> None:
        """Plan, and carry it out. Called with the lock held."""
        versions = list(self._version_pools.values())
        elsewhere = Load()
        demands = {
            version.key: version.demand(self._settings.pool.max_warm) for version in versions
        }
        if not everything and len(versions) > _FEW:
            elsewhere = load(demands[key] for key in demands.keys() - self._changed)
            demands = {key: demands[key] for key in demands.keys() & self._changed}
        self._changed.clear()
        now = time.monotonic()
        # An engine may take long to answer one start; other starts do not wait for it.
        stalled = sum(now - since > _STALLED for version in versions for since in version.launches)
        budget = replace(self._budget, starts=self._budget.starts + stalled)
        state = PoolState(functions=list(demands.values()), budget=budget, elsewhere=elsewhere)
        for action in plan(state, now):
            version = self._version_pools[action.key]
            if isinstance(action, Start):
                self._start(version)
                continue
            for _ in range(action.count):
                instance = self._unpark(version)
                if instance is not None:
                    self._launcher.discard(instance)
