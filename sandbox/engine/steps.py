"""Work in steps: a generator that says what it waits for, so that two kinds of hosts can take them.

A thread waits for each thing in turn (`carry_out`); an event loop goes on with others meanwhile
(`sandbox.server.dispatch.loop_runner`). So an invocation is written once for both. It yields

    Receive(container, deadline)   and is sent the chunk; TimeoutError is thrown into it
    Woken(wake, deadline)          and goes on when it was woken, or the deadline has passed
    BLOCKING                       before it blocks or computes for long: a loop gives it a thread

Deadlines are on the clock of `time.monotonic`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.base import Chunk, Container

T = TypeVar("T")


class Wake:
    """Happens once, from any thread, and wakes who waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._happened = False
        self._call: Callable[[], object] | None = None

    @property
    def happened(self) -> bool:
        """Whether it has."""
        return self._happened

    def set(self) -> None:
        """It happens. May be called twice."""
        with self._lock:
            self._happened = True
            call, self._call = self._call, None
        if call is not None:
            call()

    def on_set(self, call: Callable[[], object]) -> None:
        """Have `call` called once it happens, at once if it has; one waits at a time."""
        with self._lock:
            if not self._happened:
                self._call = call
                return
        call()


class Receive(NamedTuple):
    """Wait for the next chunk of a container; see `Container.receive`."""

    container: Container
    deadline: float


class Woken(NamedTuple):
    """Wait to be woken."""

    wake: Wake
    deadline: float


class Blocking:
    """What follows may block, or take long."""


BLOCKING: Final = Blocking()
# Bytes of input or output that take no time worth a thread. As lines of one byte each, these are
# 4,000 entries of a log, which take 30 ms: longer than a loop should stand still.
LIGHT: Final = 8 * 1024

Wait: TypeAlias = Receive | Woken | Blocking
# What is sent in is the chunk where one was waited for, else None.
Steps: TypeAlias = Generator[Wait, Any, T]


def carry_out(steps: Steps[T]) -> T:
    """Take all steps in this thread; what they return or raise."""
    try:
        wait = next(steps)
        while True:
            try:
                happened = _wait(wait)
            except BaseException as error:  # theirs to handle, Ctrl-C too
                wait = steps.throw(error)
            else:
                wait = steps.send(happened)
    except StopIteration as ended:
        result: T = ended.value
        return result


def _wait(wait: Wait) -> Chunk | None:
    if isinstance(wait, Receive):
        return wait.container.receive(wait.deadline)
    if isinstance(wait, Woken) and not wait.wake.happened:
        # Once it is released, it can be acquired a second time; an Event takes much longer.
        gate = threading.Lock()
        gate.acquire()
        wait.wake.on_set(gate.release)
        gate.acquire(timeout=max(wait.deadline - time.monotonic(), 0.0))
    return None
