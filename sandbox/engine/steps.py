"""Code that waits, written once, and run by a thread or by an event loop.

An invocation is a generator (`Steps`). Where it has to wait, it yields what it waits for; whoever
runs the generator does the waiting, then resumes it:

    chunk = yield Receive(container, deadline)
        resumes with the container's next chunk, or raises TimeoutError at the deadline
    yield WaitFor(latch, deadline)
        resumes when the latch is set or the deadline has passed
    yield BLOCKING
        resumes in a thread: from here on, the generator may block or compute for long

`run_steps` runs a generator in the calling thread. `sandbox.server.dispatch.loop_runner` runs many
in one event loop: there, a generator that blocks without having yielded BLOCKING stops all others.

Deadlines are on the clock of `time.monotonic`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from sandbox.engine.base import Chunk, Container
    from sandbox.latch import Latch

T = TypeVar("T")


class Receive(NamedTuple):
    """Wait for the next chunk of a container; see `Container.receive`."""

    container: Container
    deadline: float


class WaitFor(NamedTuple):
    """Wait until a latch is set."""

    latch: Latch
    deadline: float


class Blocking:
    """The code behind this step may block or compute for long."""


BLOCKING: Final = Blocking()
# An event loop handles up to this many bytes of input or output by itself. In the worst case, lines
# of one byte each, they are 4,000 log entries and take 30 ms; a loop should not stop for longer.
LIGHT: Final = 8 * 1024

Step: TypeAlias = Receive | WaitFor | Blocking
# After `Receive`, the generator is sent a chunk; after the other steps, None.
Steps: TypeAlias = Generator[Step, Any, T]


def run_steps(steps: Steps[T]) -> T:
    """Run a generator to its end in this thread; what it returns or raises."""
    try:
        step = next(steps)
        while True:
            try:
                result = _wait(step)
            except BaseException as error:  # the generator handles it, Ctrl-C too
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as ended:
        returned: T = ended.value
        return returned


def _wait(step: Step) -> Chunk | None:
    if isinstance(step, Receive):
        return step.container.receive(step.deadline)
    if isinstance(step, WaitFor) and not step.latch.is_set:
        # A lock that is released by the latch; `threading.Event` takes much longer.
        lock = threading.Lock()
        lock.acquire()
        step.latch.on_set(lock.release)
        lock.acquire(timeout=max(step.deadline - time.monotonic(), 0.0))
    return None
