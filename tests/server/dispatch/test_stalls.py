"""No invocation stops the event loop: each call that may block stands behind a BLOCKING mark.

The calls of a fake engine block here until the event loop has turned once. Called from a thread,
they return at once. Called from the loop, or while the loop waits for that thread, they would block
for ever: that is a stall.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.context import FUNCTIONS, ready
from sandbox import (
    EngineUnavailableError,
    FunctionResponse,
    LogEntry,
    Sandbox,
    SandboxError,
    Settings,
)
from sandbox.call import Call
from sandbox.engine.steps import LIGHT, Blocking
from sandbox.server.dispatch.loop_runner import LoopRunner
from sandbox.testing import FakeContext, FakeEngine, FakeFunction, FakeProcess
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.engine.base import Chunk, Container, ContainerSpec, EngineInfo, Exit, Image
    from sandbox.engine.steps import Step, Steps

# How long the loop may leave a blocked call waiting, in seconds. It turns within milliseconds.
PATIENCE = 2.0
# Log entries that the loop may handle without turning.
FEW = 2 * LIGHT // 256


class Loop:
    """The loop that is watched. `stalls` is what has stopped it."""

    def __init__(self) -> None:
        self.stalls: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._entries = 0

    async def watch(self) -> None:
        """Watch the loop that runs now."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def end(self) -> None:
        """Watch nothing any more."""
        self._loop = None

    def wait(self, what: str) -> None:
        """Block until the loop turns."""
        loop, turned = self._loop, threading.Event()
        if loop is None:
            return
        if threading.get_ident() == self._thread:
            self.stalls.append(what)
            return
        with contextlib.suppress(RuntimeError):  # it has ended meanwhile
            loop.call_soon_threadsafe(turned.set)
            if not turned.wait(PATIENCE):
                self.stalls.append(what)

    def work(self, entry: LogEntry) -> None:
        """Handle a log entry, which takes time."""
        loop = self._loop
        if loop is None or threading.get_ident() != self._thread:
            return
        if not self._entries:
            loop.call_soon(self._turned)
        self._entries += 1
        if self._entries == FEW:
            self.stalls.append("log entries")

    def _turned(self) -> None:
        self._entries = 0


class BlockingContainer:
    """A container whose calls block."""

    def __init__(self, container: Container, loop: Loop) -> None:
        self._container = container
        self._loop = loop
        self._fails = False
        self._unsent = b""

    @property
    def id(self) -> str:
        return self._container.id

    def start(self) -> None:
        self._loop.wait("start")
        self._container.start()

    def send(self, data: bytes, *, end: bool = False) -> None:
        if len(data) > LIGHT:
            self._loop.wait("send")
        self._fails = b'"fail"' in data
        if b'"slow"' in data:
            self._unsent = data
        else:
            self._container.send(data, end=end)

    @property
    def sending(self) -> bool:
        return bool(self._unsent)

    @property
    def received(self) -> bool:
        return self._container.received

    def fileno(self) -> int:
        return self._container.fileno()

    def receive(self, deadline: float) -> Chunk | None:
        if deadline and not self.received:
            self._loop.wait("receive")
            data, self._unsent = self._unsent, b""
            self._container.send(data, end=bool(data))
        if self._fails:
            raise EngineUnavailableError("the stream was cut")
        return self._container.receive(deadline)

    def kill(self) -> None:
        self._loop.wait("kill")
        self._container.kill()

    def wait(self, timeout: float) -> Exit:
        self._loop.wait("wait")
        return self._container.wait(timeout)

    def close(self) -> None:
        self._container.close()

    def remove(self) -> None:
        self._loop.wait("remove")
        self._container.remove()


class BlockingEngine(FakeEngine):
    """An engine whose calls block. Its functions log `entries_at_boot` lines when they boot."""

    def __init__(self, loop: Loop, *, entries_at_boot: int) -> None:
        def boot(process: FakeProcess) -> None:
            log(process, entries_at_boot)

        super().__init__(default=FakeFunction(answer=act, boot=boot))
        self.loop = loop

    def info(self) -> EngineInfo:
        self.loop.wait("info")
        return super().info()

    def image(self, reference: str) -> Image | None:
        self.loop.wait("image")
        return super().image(reference)

    def create(self, spec: ContainerSpec) -> Any:
        self.loop.wait("create")
        return BlockingContainer(super().create(spec), self.loop)


def act(ctx: FakeContext) -> Any:
    """What the function does stands in its input."""
    log(ctx.process, ctx.input.get("log", 0))
    if ctx.input.get("die"):
        ctx.process.die(with_init=True)
    if ctx.input.get("hang"):
        ctx.process.stall()
    return ctx.input


def log(process: FakeProcess, entries: int) -> None:
    """Write entries one by one: each is a chunk of its own."""
    for _ in range(entries):
        process.write("a line\n", "stderr")


def unmarked(steps: Steps[FunctionResponse]) -> Steps[FunctionResponse]:
    """The same invocation, as if nobody had marked what blocks."""
    resume: Callable[[], Step] = partial(next, steps)
    while True:
        try:
            step = resume()
        except StopIteration as ended:
            response: FunctionResponse = ended.value
            return response
        if isinstance(step, Blocking):
            resume = partial(next, steps)
            continue
        try:
            chunk = yield step
        except Exception as error:  # the invocation handles it
            resume = partial(steps.throw, error)
        else:
            resume = partial(steps.send, chunk)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An invocation that blocks. `boot` is how many entries it logs before it is asked."""

    input: dict[str, Any] = field(default_factory=dict)
    boot: int = 0
    warm: bool = True
    timeout: float = 30.0
    code: str | None = None
    stall: str


CASES = {
    "built first": Case(warm=False, stall="image"),
    "logs while it boots": Case(boot=10 * FEW, stall="log entries"),
    "large input": Case(input={"data": "x" * 2 * LIGHT}, stall="send"),
    "logs much": Case(input={"log": 10 * FEW}, stall="log entries"),
    "too slow": Case(input={"hang": True}, timeout=0.3, code="TIMEOUT", stall="receive"),
    "takes its input slowly": Case(input={"slow": True}, timeout=2.0, stall="receive"),
    "engine fails": Case(input={"fail": True}, code="ENGINE_UNAVAILABLE", stall="remove"),
    "dies": Case(input={"die": True}, code="FUNCTION_CRASHED", stall="wait"),
}


def outcome(
    case: Case, store: Path, mark: Callable[[Any], Any] = lambda steps: steps
) -> tuple[str | None, list[str]]:
    """Run the invocation in an event loop: its code, and what has stopped the loop."""
    loop = Loop()
    engine = BlockingEngine(loop, entries_at_boot=case.boot)
    settings = Settings.model_validate({"store": store, "pool": {"min_warm": 1}})
    call = Call(function="python-handler", input=case.input, timeout=case.timeout)

    async def main() -> tuple[str | None, list[str]]:
        await loop.watch()
        with contextlib.closing(LoopRunner("test", 1)) as runner:
            try:
                response = await runner.run(mark(sandbox.steps(call, on_log=loop.work)))
                code = response.error.code if response.error else None
            except SandboxError as error:
                code = error.code
            loop.end()
            return code, list(loop.stalls)

    with Sandbox(FUNCTIONS, settings=settings, engine=engine, warm=case.warm) as sandbox:
        if case.warm:
            sandbox.warm(call.function)
            wait_until(lambda: ready(sandbox, call.function))
        return asyncio.run(main())


@pytest.mark.parametrize("name", CASES)
def test_no_invocation_stops_the_loop(name: str, tmp_path: Path) -> None:
    assert outcome(CASES[name], tmp_path) == (CASES[name].code, [])


@pytest.mark.parametrize("name", CASES)
def test_without_its_mark_it_does(name: str, tmp_path: Path) -> None:
    """The control: each case has a call that would stop the loop."""
    _, stalls = outcome(CASES[name], tmp_path, unmarked)
    assert CASES[name].stall in stalls
