"""`Cancellation`: the caller's way to end an invocation that is under way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancellation:
    """Handed to an invocation; `cancel`, from any thread, ends it with the code CANCELLED."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End the invocation, wherever it is. May be called twice, or too late."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            call()

    def on_cancel(self, call: Callable[[], None]) -> None:
        """Have `call` called by `cancel`; at once if that has happened."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(call)
                return
        call()

    def forget(self, call: Callable[[], None]) -> None:
        """Take back what `on_cancel` was told."""
        with self._lock:
            if call in self._callbacks:
                self._callbacks.remove(call)
