"""The output of a fake container, on its way to whoever reads it."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.engine.base import Chunk


class Pipe:
    """A queue of chunks with a descriptor that is readable while there is one, or after the end.

    One thread reads, any thread writes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._ended = False
        self._closed = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def readable(self) -> bool:
        return bool(self._chunks) or self._ended

    def fileno(self) -> int:
        return self._event

    def write(self, chunk: Chunk) -> None:
        """Add a chunk; it is lost if the pipe has ended or is closed."""
        with self._changed:
            if self._ended or self._closed:
                return
            if not self._chunks:
                os.eventfd_write(self._event, 1)
            self._chunks.append(chunk)

    def wait_until_read(self) -> bool:
        """Wait until nothing is left to read. Returns False if nothing will be read any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._chunks or self._ended or self._closed)
            return not (self._ended or self._closed)

    def end(self) -> None:
        """No more chunks come. May be called twice."""
        with self._changed:
            if not (self._ended or self._closed):
                os.eventfd_write(self._event, 1)
            self._ended = True
            self._changed.notify_all()

    def read(self, deadline: float) -> Chunk | None:
        """The next chunk, or None at the end. Raises TimeoutError at `deadline`."""
        if not self.readable:
            poll = select.poll()
            poll.register(self._event, select.POLLIN)
            poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)
        with self._changed:
            if not self._chunks:
                if self._ended:
                    return None
                raise TimeoutError
            chunk = self._chunks.popleft()
            if not self._chunks:
                self._changed.notify_all()
                if not (self._ended or self._closed):
                    os.eventfd_read(self._event)
            return chunk

    def close(self) -> None:
        """Nobody reads any more. May be called twice."""
        with self._changed:
            if not self._closed:
                self._closed = True
                os.close(self._event)
            self._changed.notify_all()
