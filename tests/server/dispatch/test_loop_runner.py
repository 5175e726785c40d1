"""Invocations run by a thread and by an event loop: both come to the same end."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import OverloadedError
from sandbox.engine.base import Chunk
from sandbox.engine.steps import BLOCKING, Receive, WaitFor, run_steps
from sandbox.latch import Latch
from sandbox.server.dispatch.loop_runner import LoopRunner
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox.engine.steps import Step, Steps

T = TypeVar("T")

FAR = 30.0
NEAR = 0.01


class Talking:
    """A container, as far as steps listen to one; the test is what runs in it."""

    def __init__(self) -> None:
        self.stream, self.inside = socket.socketpair()

    received = False

    def fileno(self) -> int:
        return self.stream.fileno()

    def receive(self, deadline: float) -> Chunk | None:
        seconds = max(deadline - time.monotonic(), 0.0)
        if not select.select([self.stream], [], [], seconds)[0]:
            raise TimeoutError
        data = self.stream.recv(1)
        return Chunk("stdout", data) if data else None

    def close(self) -> None:
        self.stream.close()
        self.inside.close()


def later(call: Callable[[], object]) -> None:
    threading.Timer(NEAR, call).start()


def begin(name: str, container: Talking, latch: Latch) -> Step:
    """Have happen what is called so, and what waits for it."""
    happenings: dict[str, Callable[[], object]] = {
        "said": lambda: container.inside.send(b"a"),
        "said later": lambda: later(lambda: container.inside.send(b"b")),
        "woken": latch.set,
        "woken later": lambda: later(latch.set),
    }
    happenings.get(name, lambda: None)()
    if name == "blocking":
        return BLOCKING
    seconds = {"silent": NEAR, "not woken": NEAR, "too late": -NEAR}.get(name, FAR)
    deadline = time.monotonic() + seconds
    if "woken" in name:
        return WaitFor(latch, deadline)
    return Receive(container, deadline)  # type: ignore[arg-type]


def program(names: list[str]) -> Steps[list[object]]:
    """Steps that wait for what is called so; what came of each."""
    seen: list[object] = []
    with contextlib.closing(Talking()) as container:
        for name in names:
            if name == "fails":
                raise ValueError(name)
            latch = Latch()
            wait = begin(name, container, latch)
            try:
                seen.append(((yield wait), latch.is_set))
            except TimeoutError:
                seen.append("timeout")
            if name in ("silent", "not woken"):
                assert isinstance(wait, Receive | WaitFor)
                assert time.monotonic() >= wait.deadline
            latch.set()  # too late, and nobody's
    return seen


def outcome(take: Callable[[], object]) -> object:
    try:
        return take()
    except ValueError as error:
        return repr(error)


NAMES = (
    "said", "said later", "silent", "too late", "woken", "woken later", "not woken", "blocking",
    "fails",
)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(NAMES), max_size=8))
def test_a_loop_comes_to_the_same_end_as_a_thread(names: list[str]) -> None:
    async def in_loop() -> object:
        with contextlib.closing(LoopRunner("test", 1)) as loop_runner:
            return await loop_runner.run(program(names))

    expected = outcome(lambda: run_steps(program(names)))
    assert outcome(lambda: uvloop.run(in_loop())) == expected
    assert outcome(lambda: asyncio.run(in_loop())) == expected


def with_loop_runner(work: Callable[[LoopRunner], Awaitable[T]]) -> T:
    """What `work` comes to in a loop, with a loop_runner of at most 100 invocations."""

    async def main() -> T:
        with contextlib.closing(LoopRunner("test", 100)) as loop_runner:
            return await work(loop_runner)

    return uvloop.run(main())


def test_who_waits_has_no_thread_and_who_blocks_has_one() -> None:
    latches = [Latch() for _ in range(100)]

    def waiting(number: int) -> Steps[tuple[int, int]]:
        yield WaitFor(latches[number], time.monotonic() + FAR)
        before = threading.get_ident()
        yield BLOCKING
        yield WaitFor(latches[number], time.monotonic() + FAR)
        return before, threading.get_ident()

    async def work(loop_runner: LoopRunner) -> list[tuple[int, int]]:
        before = set(threading.enumerate())
        going = [asyncio.ensure_future(loop_runner.run(waiting(number))) for number in range(100)]
        await asyncio.sleep(0)
        assert set(threading.enumerate()) <= before
        with pytest.raises(OverloadedError):
            await loop_runner.run(waiting(0))
        for each in latches:
            each.set()
        return [await each for each in going]

    places = with_loop_runner(work)
    assert {before for before, _ in places} == {threading.get_ident()}
    assert threading.get_ident() not in {after for _, after in places}


def test_a_place_comes_free_however_it_ends() -> None:
    def failing(*, blocking: bool) -> Steps[None]:
        if blocking:
            yield BLOCKING
        raise ValueError
        yield BLOCKING

    async def work(loop_runner: LoopRunner) -> None:
        for number in range(300):
            with pytest.raises(ValueError):  # noqa: PT011 - it has no text
                await loop_runner.run(failing(blocking=number % 2 == 0))

    with_loop_runner(work)


def test_they_are_taken_to_their_end_though_nobody_waits_any_more() -> None:
    ended: list[str] = []
    latch = Latch()

    def waiting() -> Steps[None]:
        try:
            yield WaitFor(latch, time.monotonic() + FAR)
            ended.append("well")
        except BaseException:
            ended.append("badly")
            raise

    async def work(loop_runner: LoopRunner) -> None:
        going = asyncio.ensure_future(loop_runner.run(waiting()))
        await asyncio.sleep(0)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        assert ended == []
        latch.set()
        while not ended:
            await asyncio.sleep(0)

    with_loop_runner(work)
    assert ended == ["well"]


def test_what_cannot_have_its_thread_is_ended() -> None:
    ended = threading.Event()

    def blocking() -> Steps[None]:
        try:
            yield BLOCKING
        finally:
            ended.set()

    async def work() -> None:
        loop_runner = LoopRunner("test", 1)
        loop_runner.close()
        with pytest.raises(OverloadedError, match="stopping"):
            await loop_runner.run(blocking())

    asyncio.run(work())
    wait_until(ended.is_set)


def test_one_descriptor_after_another_is_heard() -> None:
    """The next container often has the number of the last."""

    async def work(loop_runner: LoopRunner) -> list[object]:
        return [await loop_runner.run(program(["silent", "said later"])) for _ in range(5)]

    assert len({repr(seen) for seen in with_loop_runner(work)}) == 1
