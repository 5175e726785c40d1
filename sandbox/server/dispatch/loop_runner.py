"""The event loop runs the steps of invocations: one that waits has no thread (`engine.steps`).

With a thread for each, threads and loop hand each other the interpreter at every step, which takes
longer than the steps. What blocks, or takes long, goes on in a thread from there on.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from sandbox.engine.steps import Blocking, Receive, Woken, carry_out
from sandbox.errors import SandboxError
from sandbox.server.dispatch.threads import Threads, stopping

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.base import Container
    from sandbox.engine.steps import Steps, Wait

T = TypeVar("T")

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT


class LoopRunner:
    """Takes the steps of at most `most` invocations at once, all of them in one loop."""

    def __init__(self, name: str, most: int) -> None:
        # One for each invocation, should all of them block.
        self._threads = Threads(name, most)
        self._poller: _Poller | None = None

    async def carry(self, steps: Steps[T]) -> T:
        """What the steps lead to. They are taken to their end even if nobody waits any more.

        Raises:
            OverloadedError: as many are carried as may be.
        """
        if self._poller is None:
            self._poller = _Poller(asyncio.get_running_loop())
        self._threads.enter()
        carried = _RunningSteps(steps, self._poller, self._threads)
        with stopping():
            return await asyncio.shield(carried.begin())

    def close(self) -> None:
        """Carry nothing any more; from any thread."""
        self._threads.close()
        if self._poller is not None:
            self._poller.close()


class _Poller:
    """Hears many descriptors for a loop: by one descriptor of its own, which hears the others.

    A loop's own readers take longer to begin and to end than an answer takes to come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.get_ident()
        self._poller = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._poller.fileno(), self._heard)

    def listen(self, descriptor: int, call: Callable[[], None]) -> None:
        """Have `call` called once there is something to read, unless `ignore` comes first."""
        self._calls[descriptor] = call
        try:
            self._poller.modify(descriptor, _ONCE)
        except FileNotFoundError:  # the first time; or it was closed, and is another's now
            self._poller.register(descriptor, _ONCE)

    def ignore(self, descriptor: int) -> None:
        """Listen there no more: the descriptor becomes somebody else's."""
        self._calls.pop(descriptor, None)

    def soon(self, call: Callable[[], None]) -> None:
        """Have `call` called in the loop; from any thread."""
        if threading.get_ident() == self._thread:
            self.loop.call_soon(call)
        else:
            self.loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Listen to nothing any more; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and hears nothing
            self.loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self.loop.remove_reader(self._poller.fileno())
        self._poller.close()

    def _heard(self) -> None:
        for descriptor, _ in self._poller.poll(0):
            call = self._calls.pop(descriptor, None)
            if call is not None:  # else somebody else's step has ended this wait
                call()


class _RunningSteps(Generic[T]):
    """One invocation under way."""

    def __init__(self, steps: Steps[T], poller: _Poller, threads: Threads) -> None:
        self._steps = steps
        self._poller = poller
        self._loop = poller.loop
        self._threads = threads
        self._done: asyncio.Future[T] = self._loop.create_future()
        # What is waited for now, where it is heard, and what looks whether its deadline is over.
        self._wait: Receive | Woken | None = None
        self._descriptor: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Future[T]:
        """Take the first steps, up to one that has to wait."""
        self._take(partial(next, self._steps))
        return self._done

    def _take(self, step: Callable[[], Wait] | None) -> None:
        """Take a step, and those behind it that need not wait."""
        while step is not None:
            try:
                wait = step()
            except StopIteration as ended:
                self._end(partial(self._done.set_result, ended.value))
                return
            except BaseException as error:  # whoever waits for it raises it
                self._end(partial(self._done.set_exception, error))
                return
            if isinstance(wait, Blocking):
                self._leave_loop()
                return
            # Who has just asked has no answer yet: to look for one would be in vain.
            look = isinstance(wait, Woken) or wait.container.received
            step = self._after(wait) if look else None
            if step is None:
                self._begin_wait(wait)

    def _after(self, wait: Receive | Woken) -> Callable[[], Wait] | None:
        """The step after a wait, if that is over."""
        if isinstance(wait, Woken):
            over = wait.wake.happened or time.monotonic() >= wait.deadline
            return partial(self._steps.send, None) if over else None
        try:
            chunk = wait.container.receive(0.0)
        except TimeoutError as error:
            over = time.monotonic() >= wait.deadline
            return partial(self._steps.throw, error) if over else None
        except Exception as error:  # theirs to handle
            return partial(self._steps.throw, error)
        return partial(self._steps.send, chunk)

    def _begin_wait(self, wait: Receive | Woken) -> None:
        self._wait = wait
        self._set_timer(wait)
        if isinstance(wait, Woken):
            wait.wake.on_set(partial(self._poller.soon, partial(self._woken, wait)))
        else:
            self._listen(wait.container)

    def _listen(self, container: Container) -> None:
        self._descriptor = container.fileno()
        self._poller.listen(self._descriptor, self._heard)

    def _end_wait(self) -> None:
        """Before the next step: it may hand the container to somebody else."""
        self._wait = None
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor is not None:
            self._poller.ignore(self._descriptor)
            self._descriptor = None

    def _set_timer(self, wait: Receive | Woken) -> None:
        self._timer = self._loop.call_later(
            max(wait.deadline - time.monotonic(), 0.0), self._late, wait
        )

    def _heard(self) -> None:
        """There is something to read; it may be less than a chunk."""
        wait = self._wait
        if isinstance(wait, Receive) and not self._go_on(wait):
            self._listen(wait.container)

    def _woken(self, wait: Woken) -> None:
        if self._wait is wait:  # else its deadline came first
            self._go_on(wait)

    def _late(self, wait: Receive | Woken) -> None:
        if not self._go_on(wait):  # a loop's timers are a little early
            self._set_timer(wait)

    def _go_on(self, wait: Receive | Woken) -> bool:
        """Take the next steps if the wait is over; whether it is."""
        step = self._after(wait)
        if step is None:
            return False
        self._end_wait()
        self._take(step)
        return True

    def _leave_loop(self) -> None:
        """What is left is done by a thread."""
        try:
            going = self._loop.run_in_executor(self._threads.executor, carry_out, self._steps)
        except RuntimeError as error:  # there are no threads any more
            with contextlib.suppress(SandboxError):
                self._steps.close()
            self._end(partial(self._done.set_exception, error))
        else:
            going.add_done_callback(self._left)

    def _left(self, ended: asyncio.Future[T]) -> None:
        error = ended.exception()
        if error is None:
            self._end(partial(self._done.set_result, ended.result()))
        else:
            self._end(partial(self._done.set_exception, error))

    def _end(self, settle: Callable[[], None]) -> None:
        self._threads.leave()
        settle()
