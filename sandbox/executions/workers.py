"""`Workers`: the threads that run queued executions, and one that maintains the record."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from sandbox.errors import DatabaseUnavailableError
from sandbox.executions.servers import BEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.executions.queue import Claimed
    from sandbox.executions.store import ExecutionStore

log = logging.getLogger(__name__)

# How often to look for executions that other servers have queued, or want cancelled.
_POLL_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 60.0
# How long to wait after the database could not be used.
_AWAY_SECONDS: Final = 2.0


class Workers:
    """Calls `run` with executions that are due, and `cancel` with ids that are to be cancelled."""

    def __init__(
        self,
        store: ExecutionStore,
        *,
        run: Callable[[Claimed], None],
        cancel: Callable[[str], object],
    ) -> None:
        self._store = store
        self._run_one = run
        self._cancel = cancel
        self._free = store.settings.workers
        self._changed = threading.Condition()
        self._woken = False
        self._stopping = False
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(store.settings.workers, thread_name_prefix="execution")
        self._claimer = threading.Thread(target=self._claim, name="execution-queue", daemon=True)
        self._maintainer = threading.Thread(
            target=self._maintain, name="execution-maintenance", daemon=True
        )

    def start(self) -> None:
        self._maintainer.start()
        self._claimer.start()

    def wake(self) -> None:
        """Look at the queue now: an execution was put there."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Claim no more executions. Running ones go on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._claimer.is_alive():
            self._claimer.join()

    def close(self, *, wait: bool = True) -> None:
        """End; with `wait`, after all running executions have ended."""
        self.stop()
        self._pool.shutdown(wait=wait)
        self._closing.set()
        if self._maintainer.is_alive():
            self._maintainer.join()

    def _claim(self) -> None:
        away = False
        while self._room():
            pause = _POLL_SECONDS
            try:
                claimed = self._next()
                pause = _POLL_SECONDS if claimed is not None else self._pause()
                away = False
            except DatabaseUnavailableError as error:
                if not away:
                    log.error("the queue of executions cannot be read: %s", error)
                away, claimed, pause = True, None, _AWAY_SECONDS
            except Exception:  # the edge of a thread, which must not end
                log.exception("the queue of executions could not be read")
                claimed = None
            if claimed is None:
                self._wait(pause)
            else:
                with self._changed:
                    self._free -= 1
                self._pool.submit(self._work, claimed)

    def _room(self) -> bool:
        """Wait until one more execution may run; False when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._free > 0)
            return not self._stopping

    def _next(self) -> Claimed | None:
        with self._changed:
            self._woken = False
        # Looking takes no lock; claiming does.
        due_at = self._store.queue.due_at()
        if due_at is None or due_at > self._store.clock():
            return None
        return self._store.queue.claim()

    def _pause(self) -> float:
        due_at = self._store.queue.due_at()
        if due_at is None:
            return _POLL_SECONDS
        return min(_POLL_SECONDS, max(0.01, due_at - self._store.clock()))

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._stopping, seconds)

    def _work(self, claimed: Claimed) -> None:
        try:
            self._run_one(claimed)
        except Exception:  # the edge of a thread
            log.exception("the execution %s could not be run", claimed.execution.id)
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def _maintain(self) -> None:
        beat = forget = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                for id in self._store.queue.asked_to_cancel():  # noqa: A001 - the field's name
                    self._cancel(id)
                if now >= beat:
                    beat = now + BEAT_SECONDS
                    self._recover()
                if now >= forget:
                    forget = now + _FORGET_SECONDS
                    self._store.forget()
            except DatabaseUnavailableError as error:
                log.debug("the record of executions cannot be maintained: %s", error)
            except Exception:  # the edge of a thread, which must not end
                log.exception("the record of executions could not be maintained")
            if self._closing.wait(_POLL_SECONDS):
                return

    def _recover(self) -> None:
        server, queue = self._store.server, self._store.queue
        server.beat()
        dead = server.dead(server.others() | queue.running_owners())
        if not dead:
            return
        count = queue.recover(dead)
        server.forget(dead)
        if count:
            log.warning("%d executions were recovered from servers that have ended", count)
            self.wake()
