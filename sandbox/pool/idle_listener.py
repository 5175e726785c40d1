"""The keeper: a thread that hears the instances that nobody uses, and has the pool planned."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.containers.instance import Instance

# How often everything is planned anew though nothing has happened, in seconds.
_TICK: Final = 1.0


class Tick(Protocol):
    """What is done after each change, and for `everything` now and then."""

    def __call__(self, *, everything: bool) -> None:
        """Must not raise."""


class IdleListener:
    """Calls `overhear` with the descriptor of an instance that has something to say, then `tick`.

    Both are called in its thread, which begins when it is first needed. Its other methods, but
    `close`, are to be called with the pool's lock held.
    """

    def __init__(self, *, overhear: Callable[[int], None], tick: Tick) -> None:
        self._overhear = overhear
        self._tick = tick
        self._parked: dict[int, Instance] = {}
        self._closed = False
        self._thread: threading.Thread | None = None
        self._poller = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._wakeup, select.EPOLLIN)

    def listen(self, instance: Instance) -> None:
        """Hear an instance from now on."""
        descriptor = instance.container.fileno()
        self._parked[descriptor] = instance
        self._poller.register(descriptor, select.EPOLLIN)
        self._start()

    def ignore(self, instance: Instance) -> None:
        """Hear an instance no more: it is somebody's, or is let go."""
        self.heard(instance.container.fileno())

    def heard(self, descriptor: int) -> Instance | None:
        """The instance with that descriptor, which is heard no more; None if none was."""
        instance = self._parked.pop(descriptor, None)
        if instance is not None:
            self._poller.unregister(descriptor)
        return instance

    def wake(self) -> None:
        """Have `tick` called soon."""
        self._start()
        os.eventfd_write(self._wakeup, 1)

    def close(self) -> None:
        """End the thread; without the lock."""
        self._closed = True
        os.eventfd_write(self._wakeup, 1)
        if self._thread is not None:
            self._thread.join()
        self._poller.close()
        os.close(self._wakeup)

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        ticked_at = 0.0
        while not self._closed:
            timeout = max(0.0, ticked_at + _TICK - time.monotonic())
            for descriptor, _ in self._poller.poll(timeout):
                if descriptor == self._wakeup:
                    os.eventfd_read(descriptor)
                else:
                    self._overhear(descriptor)
            everything = time.monotonic() >= ticked_at + _TICK
            if everything:
                ticked_at = time.monotonic()
            self._tick(everything=everything)
