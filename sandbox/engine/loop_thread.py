"""An event loop in a thread of its own. Only this thread imports `asyncio`, which is slow."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads, until `close`."""

    def __init__(self) -> None:
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon thread: a process that ends without `close` does not wait for it.
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import asyncio  # noqa: PLC0415 - slow to import, and most processes need no gateway

        loop = asyncio.new_event_loop()
        loop.call_soon(self._ready.set_result, loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run `make()` in the loop. Returns at once, with a future of the result."""
        done: Future[T] = Future()

        def start(ready: Future[asyncio.AbstractEventLoop]) -> None:
            import asyncio  # noqa: PLC0415 - see `_run`

            running = asyncio.run_coroutine_threadsafe(make(), ready.result())
            running.add_done_callback(lambda ended: _copy(ended, done))

        self._ready.add_done_callback(start)
        return done

    def close(self) -> None:
        loop = self._ready.result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()


def _copy(ended: Future[T], done: Future[T]) -> None:
    error = ended.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(ended.result())
