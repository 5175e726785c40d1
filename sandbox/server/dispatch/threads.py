"""Threads for calls that block, without a queue: a call gets a thread at once, or is refused."""

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
    """Raise OverloadedError when an executor was shut down."""
    try:
        yield
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise OverloadedError("the server is stopping", retry_after=1.0) from None


class Threads:
    """At most `most` threads."""

    def __init__(self, name: str, most: int) -> None:
        self.executor = ThreadPoolExecutor(most, name)
        self._free = most
        self._lock = threading.Lock()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns or raises. If the caller is cancelled, the call still runs on.

        Raises:
            OverloadedError: all threads are in use.
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
        """Reserve a thread for the caller, until `leave`.

        Raises:
            OverloadedError: all threads are in use.
        """
        with self._lock:
            if not self._free:
                raise OverloadedError("the server has no thread to spare", retry_after=1.0)
            self._free -= 1

    def leave(self) -> None:
        with self._lock:
            self._free += 1

    def close(self) -> None:
        """Take no more calls. Does not wait for running ones."""
        self.executor.shutdown(wait=False)
