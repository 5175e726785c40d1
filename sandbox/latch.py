"""`Latch`: something that happens once, and that threads and event loops can both wait for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Latch:
    """Set once, from any thread. Unlike `threading.Event` it calls back: nobody has to block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Set it and make the calls that wait for it. Setting it again changes nothing."""
        with self._lock:
            self._set = True
            callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            call()

    def on_set(self, call: Callable[[], object]) -> None:
        """Have `set` make this call; make it now if the latch is set already."""
        with self._lock:
            if not self._set:
                self._callbacks.append(call)
                return
        call()

    def forget(self, call: Callable[[], object]) -> None:
        """Undo `on_set`. A call that was already made, or never registered, is ignored."""
        with self._lock:
            if call in self._callbacks:
                self._callbacks.remove(call)
