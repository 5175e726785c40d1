"""`LoopRunner`: runs invocations (`sandbox.engine.steps`) in the event loop, without threads.

If each had a thread, threads and loop would hand each other the interpreter at every step, which
takes longer than the steps. An invocation gets a thread only when it says that it will block.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from sandbox.engine.steps import Blocking, Receive, WaitFor, run_steps
from sandbox.errors import SandboxError
from sandbox.server.dispatch.threads import Threads, stopping

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.base import Container
    from sandbox.engine.steps import Step, Steps

T = TypeVar("T")

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT


class LoopRunner:
    """Runs at most `most` invocations at once, all of them in one event loop."""

    def __init__(self, name: str, most: int) -> None:
        # A thread for each invocation, should all of them block.
        self._threads = Threads(name, most)
        self._poller: _Poller | None = None

    async def run(self, steps: Steps[T]) -> T:
        """Run an invocation and return its result. If the caller is cancelled, it still runs on.

        Raises:
            OverloadedError: `most` invocations are running.
        """
        if self._poller is None:
            self._poller = _Poller(asyncio.get_running_loop())
        self._threads.enter()
        running = _RunningSteps(steps, self._poller, self._threads)
        with stopping():
            return await asyncio.shield(running.start())

    def close(self) -> None:
        """Run nothing any more. Called from any thread."""
        self._threads.close()
        if self._poller is not None:
            self._poller.close()


class _Poller:
    """Watches many descriptors for a loop, which itself watches only the poller's own descriptor.

    `loop.add_reader` and `remove_reader` for each wait would take longer than a function's answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.get_ident()
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._poll)

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Make this call once the descriptor can be read, unless `ignore` comes first."""
        self._calls[descriptor] = call
        try:
            self._epoll.modify(descriptor, _ONCE)
        except FileNotFoundError:  # never registered, or closed since and opened anew
            self._epoll.register(descriptor, _ONCE)

    def ignore(self, descriptor: int) -> None:
        """Watch it no longer: somebody else is about to use it."""
        self._calls.pop(descriptor, None)

    def soon(self, call: Callable[[], None]) -> None:
        """Make this call in the loop. Called from any thread."""
        if threading.get_ident() == self._thread:
            self.loop.call_soon(call)
        else:
            self.loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Watch nothing any more. Called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _poll(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            call = self._calls.pop(descriptor, None)
            if call is not None:  # else an earlier call of this round has ended the wait
                call()


class _RunningSteps(Generic[T]):
    """One invocation under way."""

    def __init__(self, steps: Steps[T], poller: _Poller, threads: Threads) -> None:
        self._steps = steps
        self._poller = poller
        self._loop = poller.loop
        self._threads = threads
        self._done: asyncio.Future[T] = self._loop.create_future()
        # The wait under way, the descriptor watched for it, and the timer of its deadline.
        self._wait: Receive | WaitFor | None = None
        self._descriptor: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> asyncio.Future[T]:
        self._resume(partial(next, self._steps))
        return self._done

    def _resume(self, resume: Callable[[], Step] | None) -> None:
        while resume is not None:
            try:
                step = resume()
            except StopIteration as ended:
                self._end(partial(self._done.set_result, ended.value))
                return
            except BaseException as error:  # raised in whoever awaits the result
                self._end(partial(self._done.set_exception, error))
                return
            if isinstance(step, Blocking):
                self._leave_loop()
                return
            # A container that was asked just now has no answer yet: looking would be in vain.
            look = isinstance(step, WaitFor) or step.container.received
            resume = self._after(step) if look else None
            if resume is None:
                self._begin_wait(step)

    def _after(self, wait: Receive | WaitFor) -> Callable[[], Step] | None:
        """How to resume after this wait; None if it is not over."""
        if isinstance(wait, WaitFor):
            over = wait.latch.is_set or time.monotonic() >= wait.deadline
            return partial(self._steps.send, None) if over else None
        try:
            chunk = wait.container.receive(0.0)
        except TimeoutError as error:
            over = time.monotonic() >= wait.deadline
            return partial(self._steps.throw, error) if over else None
        except Exception as error:  # the generator handles it
            return partial(self._steps.throw, error)
        return partial(self._steps.send, chunk)

    def _begin_wait(self, wait: Receive | WaitFor) -> None:
        self._wait = wait
        self._set_timer(wait)
        if isinstance(wait, WaitFor):
            wait.latch.on_set(partial(self._poller.soon, partial(self._latch_set, wait)))
        else:
            self._watch(wait.container)

    def _watch(self, container: Container) -> None:
        self._descriptor = container.fileno()
        self._poller.watch(self._descriptor, self._readable)

    def _end_wait(self) -> None:
        """Called before the generator resumes: it may hand the container to somebody else."""
        self._wait = None
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor is not None:
            self._poller.ignore(self._descriptor)
            self._descriptor = None

    def _set_timer(self, wait: Receive | WaitFor) -> None:
        self._timer = self._loop.call_later(
            max(wait.deadline - time.monotonic(), 0.0), self._deadline_passed, wait
        )

    def _readable(self) -> None:
        wait = self._wait
        # What can be read may be less than a chunk.
        if isinstance(wait, Receive) and not self._try_resume(wait):
            self._watch(wait.container)

    def _latch_set(self, wait: WaitFor) -> None:
        if self._wait is wait:  # else its deadline came first
            self._try_resume(wait)

    def _deadline_passed(self, wait: Receive | WaitFor) -> None:
        if not self._try_resume(wait):  # a loop's timers are a little early
            self._set_timer(wait)

    def _try_resume(self, wait: Receive | WaitFor) -> bool:
        """Resume the generator if its wait is over; whether it is."""
        resume = self._after(wait)
        if resume is None:
            return False
        self._end_wait()
        self._resume(resume)
        return True

    def _leave_loop(self) -> None:
        try:
            running = self._loop.run_in_executor(self._threads.executor, run_steps, self._steps)
        except RuntimeError as error:  # the executor was shut down
            with contextlib.suppress(SandboxError):
                self._steps.close()
            self._end(partial(self._done.set_exception, error))
        else:
            running.add_done_callback(self._left)

    def _left(self, ended: asyncio.Future[T]) -> None:
        error = ended.exception()
        if error is None:
            self._end(partial(self._done.set_result, ended.result()))
        else:
            self._end(partial(self._done.set_exception, error))

    def _end(self, settle: Callable[[], None]) -> None:
        self._threads.leave()
        settle()
