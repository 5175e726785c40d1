"""Instances, kept booted before they are asked, and the queue of those who wait for one.

Decisions are made under the lock; what the engine has to do for them is done by the launcher's
threads. What is to be booted or let go is decided by `sandbox.pool.plan`; this module carries it
out. `sandbox.pool.keeper` hears the instances that nobody uses: when they have booted, and when
they die.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandbox.errors import OverloadedError
from sandbox.pool.admission import Queue, QueueLimits, Rejected, admit
from sandbox.pool.keeper import Keeper
from sandbox.pool.plan import Budget, Load, Start, State, load, plan
from sandbox.pool.shelf import Shelf, Waiter, smoothed
from sandbox.waits import Woken

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sandbox.cancellation import Cancellation
    from sandbox.deploy import Deployment
    from sandbox.instance import Instance
    from sandbox.launcher import Launcher
    from sandbox.pool.notes import ColdNotes
    from sandbox.settings import Settings
    from sandbox.waits import Steps

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
        cold_notes: ColdNotes,
        ahead: bool = True,
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._ahead = ahead and settings.pool.enabled
        self._cold_notes = cold_notes
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
        self._shelves: dict[str, Shelf] = {}
        # The version in force of each function, by name.
        self._versions: dict[str, Shelf] = {}
        self._running = 0
        # Who is in a queue, and which of them have not had their turn yet.
        self._queued = 0
        self._waiting = 0
        # How long an invocation keeps its place, of late.
        self._hold_seconds: float | None = None
        self._changed: set[str] = set()
        self._closed = False
        self._keeper = Keeper(overhear=self._overhear, tick=self._tick)
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
            shelf = self._shelf(deployment)
            now = time.monotonic()
            shelf.arrivals.note(now)
            if self._running < self._settings.concurrency and not self._waiting:
                instance = self._unpark(shelf)
                if instance is not None:
                    self._running += 1
                    shelf.busy += 1
                    instance.granted_at = now
                    return instance
            waiter = self._enqueue(shelf, now, deadline)
            self._dispatch()
        wake = waiter.woken.set
        cancellation.on_cancel(wake)
        try:
            yield Woken(waiter.woken, deadline)
        except BaseException:  # Ctrl-C: what was made for it is nobody's now
            self._leave(shelf, waiter)
            if waiter.instance is not None:
                self.release(waiter.instance, reusable=False, gently=False)
            raise
        finally:
            cancellation.forget(wake)
        self._leave(shelf, waiter)
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
            shelf = self._shelves[instance.deployment.key]
            self._running -= 1
            shelf.busy -= 1
            held = time.monotonic() - instance.granted_at
            self._hold_seconds = smoothed(self._hold_seconds, held)
            shelf.run_seconds = smoothed(shelf.run_seconds, held)
            kept = reusable and not shelf.retired and instance.usable
            if kept:
                instance.renew()
                self._place(shelf, instance)
            self._dispatch()
            if not kept:  # one that is kept leaves everything as it was before it was asked
                self._note_change(shelf)
            self._forget_if_empty(shelf)
        if not kept:
            self._launcher.discard(instance, gently=gently)

    def offer(self, instance: Instance) -> None:
        """Take an instance that has booted, of what is from now on its function's version."""
        with self._lock:
            shelf = self._shelf(instance.deployment)
            kept = self._ahead and not self._closed and instance.usable
            if kept:
                self._place(shelf, instance)
            self._note_change(shelf)
        if not kept:
            self._launcher.discard(instance)

    def keep(self, deployment: Deployment) -> None:
        """Keep as many of it booted as settings and manifest ask for; it is its version now."""
        with self._lock:
            self._note_change(self._shelf(deployment))

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
                    "version": shelf.deployment.bundle.digest,
                    "ready": len(shelf.ready),
                    "booting": shelf.coming,
                    "busy": shelf.busy,
                    "waiting": len(shelf.waiters),
                    "cold_only": shelf.cold_only or None,
                    "boot_failure": shelf.failure or None,
                }
                for name, shelf in self._versions.items()
            }

    def close(self) -> None:
        """Let go of all instances that nobody uses, and start no more. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for shelf in list(self._shelves.values()):
                self._retire(shelf)
        self._keeper.close()

    def _leave(self, shelf: Shelf, waiter: Waiter) -> None:
        """A waiter's wait is over, well or not."""
        with self._lock:
            shelf.waiters.remove(waiter)
            self._queued -= 1
            if not waiter.granted:
                self._waiting -= 1
            elif waiter.instance is None:
                self._running -= 1
                self._dispatch()
            self._forget_if_empty(shelf)

    # Everything below is called with the lock held, but where it says otherwise.

    def _shelf(self, deployment: Deployment) -> Shelf:
        """The shelf of this version, which is in force from now on."""
        shelf = self._shelves.get(deployment.key)
        if shelf is None:
            shelf = Shelf(deployment.key, deployment, cold_only=deployment.cold_only)
            self._shelves[deployment.key] = shelf
        name = deployment.function.name
        before = self._versions.get(name)
        if before is not shelf:
            self._versions[name] = shelf
            shelf.retired = False
            if before is not None:
                # How it is called does not change with its files.
                shelf.arrivals, shelf.boot_seconds = before.arrivals, before.boot_seconds
                self._retire(before)
        return shelf

    def _retire(self, shelf: Shelf) -> None:
        shelf.retired = True
        while (instance := self._unpark(shelf)) is not None:
            self._launcher.discard(instance)
        self._forget_if_empty(shelf)

    def _forget_if_empty(self, shelf: Shelf) -> None:
        if shelf.retired and not shelf.containers and not shelf.waiters:
            self._shelves.pop(shelf.key, None)

    def _enqueue(self, shelf: Shelf, now: float, deadline: float) -> Waiter:
        """Have an invocation wait, or refuse it at once where waiting cannot help."""
        queue = Queue(
            waiting=self._waiting,
            waiting_here=sum(not waiter.granted for waiter in shelf.waiters),
            busy=self._running,
            places=self._settings.concurrency,
            ready=len(shelf.ready),
            boot=shelf.boot_seconds,
            run=shelf.run_seconds,
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
        shelf.waiters.append(waiter)
        self._queued += 1
        self._waiting += 1
        return waiter

    def _dispatch(self) -> None:
        """Give turns to who waits, fewest in use first; and instances to whose turn it is."""
        while self._waiting and self._running < self._settings.concurrency:
            waiting = [
                (shelf.load, waiter.since, shelf, waiter)
                for shelf in self._shelves.values()
                if (waiter := next((item for item in shelf.waiters if not item.granted), None))
            ]
            _, _, shelf, waiter = min(waiting, key=lambda item: item[:2])
            waiter.granted = True
            waiter.granted_at = time.monotonic()
            self._waiting -= 1
            self._running += 1
        if self._queued:
            for shelf in self._shelves.values():
                self._serve(shelf)

    def _serve(self, shelf: Shelf) -> None:
        """Give instances to whose turn it is; start those that are missing."""
        while (waiter := shelf.next_unserved()) is not None:
            instance = self._unpark(shelf)
            if instance is None:
                break
            shelf.hand(waiter, instance)
        for _ in range(shelf.unserved - len(shelf.launches) - shelf.overheard):
            if self._containers() >= self._budget.containers:
                self._note_change(shelf)  # the plan takes the room from somebody
                return
            self._start(shelf)

    def _containers(self) -> int:
        in_use = sum(shelf.containers for shelf in self._shelves.values())
        return in_use + self._launcher.removing

    def _unpark(self, shelf: Shelf) -> Instance | None:
        instance = shelf.take()
        if instance is not None:
            self._keeper.ignore(instance)
        return instance

    def _place(self, shelf: Shelf, instance: Instance) -> None:
        """Give an instance to who waits for one, else keep it."""
        waiter = shelf.next_unserved()
        if waiter is not None:
            shelf.hand(waiter, instance)
            return
        shelf.put(instance)
        self._keeper.listen(instance)

    def _removed(self) -> None:
        """A container is gone from the engine, and leaves room; without the lock."""
        if self._queued:
            with self._lock:
                self._dispatch()

    def _start(self, shelf: Shelf) -> None:
        now = time.monotonic()
        shelf.started_at = now
        shelf.launches.append(now)
        self._launcher.submit(lambda: self._launch(shelf, now))

    def _launch(self, shelf: Shelf, since: float) -> None:
        """Make an instance for the shelf; in a thread of the launcher's, without the lock."""
        try:
            instance = self._launcher.launch(shelf.deployment)
        except Exception as error:  # the edge of a thread; who waits for it raises it
            log.debug("could not launch %s", shelf.deployment.function.name, exc_info=True)
            with self._lock:
                shelf.launches.remove(since)
                self._launch_failed(shelf, error)
            return
        with self._lock:
            shelf.launches.remove(since)
            wanted = shelf.next_unserved() is not None
            kept = wanted or (self._ahead and not shelf.retired and instance.usable)
            if kept:
                self._place(shelf, instance)
            elif instance.failure is not None:
                shelf.failed(instance.failure.message, time.monotonic())
            self._note_change(shelf)
            self._forget_if_empty(shelf)
        if not kept:
            self._launcher.discard(instance)

    def _launch_failed(self, shelf: Shelf, error: Exception) -> None:
        shelf.failed(str(error), time.monotonic())
        waiter = shelf.next_unserved()
        if waiter is not None:
            waiter.error = error
            waiter.woken.set()
        self._note_change(shelf)
        self._forget_if_empty(shelf)

    def _note_change(self, shelf: Shelf) -> None:
        if self._ahead and not self._closed:
            self._changed.add(shelf.key)
            self._keeper.wake()

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
            instance = self._keeper.heard(descriptor)
            if instance is None:
                return  # it was taken a moment ago
            shelf = self._shelves[instance.deployment.key]
            shelf.drop(instance)
            shelf.overheard += 1
        was_ready = instance.ready
        instance.overhear()
        with self._lock:
            shelf.overheard -= 1
            if instance.usable and not instance.spoke_unasked and not shelf.retired:
                if instance.ready and not was_ready:
                    shelf.booted(time.monotonic() - instance.created_at)
                    self._changed.add(shelf.key)
                self._place(shelf, instance)
                return
            lost = not shelf.retired
            if lost:
                self._lose(shelf, instance, was_ready=was_ready)
            self._serve(shelf)
            self._forget_if_empty(shelf)
        self._launcher.discard(instance)
        if lost and shelf.cold_only:
            self._cold_notes.add(shelf.deployment.source_digest, shelf.cold_only)

    def _lose(self, shelf: Shelf, instance: Instance, *, was_ready: bool) -> None:
        """An instance has died, or spoken out of turn, before it was asked."""
        self._changed.add(shelf.key)
        reason = instance.why_lost
        if instance.deployment.function.interface == "stdio" and instance.flood is None:
            shelf.cold_only = reason
        elif not was_ready:
            shelf.failed(reason, time.monotonic())

    def _expire_boots(self) -> None:
        """Let go of what takes too long to boot."""
        now = time.monotonic()
        for shelf in list(self._shelves.values()):
            while shelf.booting and shelf.booting[0].boot_deadline <= now:
                instance = shelf.booting.popleft()
                self._keeper.ignore(instance)
                shelf.failed(instance.why_lost, now)
                self._launcher.discard(instance)

    def _carry_out(self, *, everything: bool) -> None:
        """Plan, and do it; with the lock."""
        shelves = list(self._shelves.values())
        elsewhere = Load()
        demands = {shelf.key: shelf.demand(self._settings.pool.max_warm) for shelf in shelves}
        if not everything and len(shelves) > _FEW:
            elsewhere = load(demands[key] for key in demands.keys() - self._changed)
            demands = {key: demands[key] for key in demands.keys() & self._changed}
        self._changed.clear()
        now = time.monotonic()
        # An engine may leave one start unanswered for long: others are not to wait for it.
        stalled = sum(now - since > _STALLED for shelf in shelves for since in shelf.launches)
        budget = replace(self._budget, starts=self._budget.starts + stalled)
        state = State(functions=list(demands.values()), budget=budget, elsewhere=elsewhere)
        for action in plan(state, now):
            shelf = self._shelves[action.key]
            if isinstance(action, Start):
                self._start(shelf)
                continue
            for _ in range(action.count):
                instance = self._unpark(shelf)
                if instance is not None:
                    self._launcher.discard(instance)
