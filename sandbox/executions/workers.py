"""The threads behind the queue: they take what is due, and look after what is on record."""

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

# How often to look for what others have put into the queue, or want cancelled.
_POLL_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 60.0
# How long to leave a database alone that could not be used.
_AWAY_SECONDS: Final = 2.0


class Workers:
    """Runs what is due by `run`, as many at once as the settings say; asks `cancel` for an id."""

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
        self._taker = threading.Thread(target=self._take, name="execution-queue", daemon=True)
        self._carer = threading.Thread(target=self._care, name="execution-care", daemon=True)

    def start(self) -> None:
        """Begin: first with what servers that have ended left behind."""
        self._carer.start()
        self._taker.start()

    def wake(self) -> None:
        """Look at the queue now: something was put there."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Take no more; what runs goes on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._taker.is_alive():
            self._taker.join()

    def close(self, *, wait: bool = True) -> None:
        """End; unless told not to, wait until all that runs has ended."""
        self.stop()
        self._pool.shutdown(wait=wait)
        self._closing.set()
        if self._carer.is_alive():
            self._carer.join()

    def _take(self) -> None:
        away = False
        while self._room():
            pause = _POLL_SECONDS
            try:
                claimed = self._next()
                pause = _POLL_SECONDS if claimed is not None else self._pause()
                away = False
            except DatabaseUnavailableError as error:
                if not away:
                    log.error("the queue of executions stands still: %s", error)
                away, claimed, pause = True, None, _AWAY_SECONDS
            except Exception:  # the edge of a thread, which has to go on
                log.exception("the queue of executions could not be read")
                claimed = None
            if claimed is None:
                self._wait(pause)
            else:
                with self._changed:
                    self._free -= 1
                self._pool.submit(self._work, claimed)

    def _room(self) -> bool:
        """Wait until one more may run; False if none will."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._free > 0)
            return not self._stopping

    def _next(self) -> Claimed | None:
        with self._changed:
            self._woken = False
        # Looking takes no lock, taking does.
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

    def _care(self) -> None:
        beat = forget = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                for id in self._store.queue.asked_to_cancel():  # noqa: A001 - the field's name
                    self._cancel(id)
                if now >= beat:
                    beat = now + BEAT_SECONDS
                    self._look_after_servers()
                if now >= forget:
                    forget = now + _FORGET_SECONDS
                    self._store.forget()
            except DatabaseUnavailableError as error:
                log.debug("executions are not looked after for now: %s", error)
            except Exception:  # the edge of a thread, which has to go on
                log.exception("executions could not be looked after")
            if self._closing.wait(_POLL_SECONDS):
                return

    def _look_after_servers(self) -> None:
        server, queue = self._store.server, self._store.queue
        server.beat()
        dead = server.dead(server.others() | queue.running_owners())
        if not dead:
            return
        count = queue.recover(dead)
        server.forget(dead)
        if count:
            log.warning("%d executions were left behind by servers that ended", count)
            self.wake()
