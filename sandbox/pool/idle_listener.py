"""A thread that reads the output of idle instances, and has the pool plan after each change."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.containers.instance import Instance

# How often the whole pool is planned though nothing has changed, in seconds.
_PLAN_SECONDS: Final = 1.0


class OnChange(Protocol):
    """Called after each change; with `everything` about once a second."""

    def __call__(self, *, everything: bool) -> None:
        """Must not raise."""


class IdleListener:
    """Calls `on_output` with the descriptor of an idle instance that wrote, then `on_change`.

    Its thread makes both calls; it starts when it is first needed. Call all methods but `close`
    with the pool's lock held.
    """

    def __init__(self, *, on_output: Callable[[int], None], on_change: OnChange) -> None:
        self._on_output = on_output
        self._on_change = on_change
        self._parked: dict[int, Instance] = {}
        self._closed = False
        self._thread: threading.Thread | None = None
        self._poller = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._wakeup, select.EPOLLIN)

    def register(self, instance: Instance) -> None:
        descriptor = instance.container.fileno()
        self._parked[descriptor] = instance
        self._poller.register(descriptor, select.EPOLLIN)
        self._start()

    def unregister(self, instance: Instance) -> None:
        """Stop watching an instance: an invocation gets it, or it is removed."""
        self.take(instance.container.fileno())

    def take(self, descriptor: int) -> Instance | None:
        """Stop watching the instance with that descriptor, and return it; else None."""
        instance = self._parked.pop(descriptor, None)
        if instance is not None:
            self._poller.unregister(descriptor)
        return instance

    def wake(self) -> None:
        self._start()
        os.eventfd_write(self._wakeup, 1)

    def close(self) -> None:
        """End the thread. Call it without the lock."""
        self._closed = True
        os.eventfd_write(self._wakeup, 1)
        if self._thread is not None:
            self._thread.join()
        self._poller.close()
        os.close(self._wakeup)

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="idle-listener", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        planned_at = 0.0
        while not self._closed:
            timeout = max(0.0, planned_at + _PLAN_SECONDS - time.monotonic())
            for descriptor, _ in self._poller.poll(timeout):
                if descriptor == self._wakeup:
                    os.eventfd_read(descriptor)
                else:
                    self._on_output(descriptor)
            everything = time.monotonic() >= planned_at + _PLAN_SECONDS
            if everything:
                planned_at = time.monotonic()
            self._on_change(everything=everything)
