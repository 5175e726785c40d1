"""A timer: calls functions in threads of its own, at times of the wall clock."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# Seconds. The wall clock may be set at any time, so the timer looks at it at least this often.
_MAX_SLEEP: Final = 30.0


class Timer:
    """Makes the calls that `call_at` asks for, from `start` to `close`. A call must not raise."""

    def __init__(self, name: str, *, threads: int) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Hashable, Callable[[], object]]] = []
        # The number of the latest entry for each key; `_next` drops older entries.
        self._current: dict[Hashable, int] = {}
        self._numbers = itertools.count()
        self._closed = False
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call_at(self, moment: float, call: Callable[[], object], *, key: Hashable) -> None:
        """Call `call` at `moment`, in seconds since the epoch; at once if that has passed.

        It replaces a pending call with the same `key`.
        """
        with self._changed:
            number = self._current[key] = next(self._numbers)
            heapq.heappush(self._heap, (moment, number, key, call))
            self._changed.notify()

    def close(self) -> None:
        """Make no more calls, and wait until running ones have returned."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._threads.shutdown()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            self._threads.submit(call)

    def _next(self) -> Callable[[], object] | None:
        """The next call, once it is due; None after `close`."""
        with self._changed:
            while not self._closed:
                wait = self._heap[0][0] - time.time() if self._heap else _MAX_SLEEP
                if wait > 0:
                    self._changed.wait(min(wait, _MAX_SLEEP))
                    continue
                _, number, key, call = heapq.heappop(self._heap)
                if self._current.get(key) == number:
                    del self._current[key]
                    return call
            return None
