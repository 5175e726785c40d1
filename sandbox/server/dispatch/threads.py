"""Threads for calls that block, as many as there are and no queue before them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sandbox.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Turn what an executor says that was shut down into OverloadedError."""
    try:
        yield
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise OverloadedError("the server is stopping", retry_after=1.0) from None


class Threads:
    """At most `most` threads. A call that would have to wait for one is refused."""

    def __init__(self, name: str, most: int) -> None:
        self.executor = ThreadPoolExecutor(most, name)
        self._free = most
        self._lock = threading.Lock()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns or raises. It runs to its end even if nobody waits for it any more.

        Raises:
            OverloadedError: all threads are taken.
        """
        self.enter()

        def run() -> T:
            try:
                return call(*args, **kwargs)
            finally:
                self.leave()

        with stopping():
            return await asyncio.get_running_loop().run_in_executor(self.executor, run)

    def enter(self) -> None:
        """Have one thread less to spare: it is kept for the caller, until `leave`.

        Raises:
            OverloadedError: all threads are taken.
        """
        with self._lock:
            if not self._free:
                raise OverloadedError("the server has no thread to spare", retry_after=1.0)
            self._free -= 1

    def leave(self) -> None:
        """The caller needs its thread no more."""
        with self._lock:
            self._free += 1

    def close(self) -> None:
        """Take no more calls; does not wait for those under way."""
        self.executor.shutdown(wait=False)
