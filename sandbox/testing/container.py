"""A fake container: its stream, and the thread in which its program runs."""

from __future__ import annotations

import signal
import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from sandbox.engine.base import Exit
from sandbox.protocol.report import NONCE_VARIABLE
from sandbox.testing.pipe import Pipe
from sandbox.testing.process import FakeProcess, ProcessEnded, ProcessKilled

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.base import Chunk, ContainerSpec
    from sandbox.testing.functions import Operation


class Program(Protocol):
    """What the process of a container does. An `instant` one is run without a thread."""

    instant: bool

    def start(self, process: FakeProcess) -> None: ...

    def take(self, process: FakeProcess, line: bytes) -> None: ...

    def end(self, process: FakeProcess) -> None: ...


class FakeContainer:
    """See `sandbox.engine.base.Container`.

    `called` is told of each call before it is carried out, and may raise; `forget` is called
    when the container is removed.
    """

    def __init__(
        self,
        container_id: str,
        spec: ContainerSpec,
        program: Program,
        *,
        called: Callable[[Operation], None],
        forget: Callable[[], None],
    ) -> None:
        self.id = container_id
        self.spec = spec
        self._program = program
        self._called = called
        self._forget = forget
        self._pipe = Pipe()
        self._process = FakeProcess(
            self._pipe,
            nonce=spec.env.get(NONCE_VARIABLE, ""),
            handler="--handler" in spec.command,
        )
        self._stdin = b""
        self._started = False
        self._exit: Exit | None = None
        self._ending = threading.Lock()
        # What the process has still to do; its thread waits for that.
        self._steps: SimpleQueue[Callable[[], None]] = SimpleQueue()

    @property
    def state(self) -> str:
        """The engine's word for it: created, running or exited."""
        if self._exit is not None:
            return "exited"
        return "running" if self._started else "created"

    def start(self) -> None:
        """Start its process."""
        self._called("start")
        self._started = True
        if not self._program.instant:
            threading.Thread(target=self._work, name=self.id, daemon=True).start()
        self._do(partial(self._program.start, self._process))

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Hand over each line, as soon as it is whole."""
        *lines, self._stdin = (self._stdin + data).split(b"\n")
        for line in filter(None, lines):
            self._do(partial(self._program.take, self._process, line))
        if end:
            self._do(partial(self._program.end, self._process))

    @property
    def sending(self) -> bool:
        """Never: it takes everything at once."""
        return False

    @property
    def received(self) -> bool:
        """Whether it has written something, or has ended."""
        return self._pipe.readable

    def fileno(self) -> int:
        """A descriptor that is readable while `received`."""
        return self._pipe.fileno()

    def receive(self, deadline: float) -> Chunk | None:
        """The next chunk, or None once it has ended. Raises TimeoutError."""
        self._called("receive")
        return self._pipe.read(deadline)

    def kill(self) -> None:
        """End it, as by SIGKILL: without a last report."""
        self._called("kill")
        self._kill()

    def wait(self, timeout: float) -> Exit:
        """How it ended. Raises TimeoutError while it has not."""
        self._called("wait")
        self._process.killed.wait(timeout)
        if self._exit is None:
            raise TimeoutError
        return self._exit

    def close(self) -> None:
        """Let go of its stream. May be called twice."""
        self._pipe.close()

    def remove(self) -> None:
        """Close its stream, and remove it. May be called twice."""
        self.close()
        self.discard()

    def discard(self) -> None:
        """Remove it as by its id: whoever reads its stream finds the end."""
        self._called("remove")
        self._kill()
        self._forget()

    def _kill(self) -> None:
        if self._started:
            self._ended(Exit(exit_code=128 + signal.SIGKILL, oom_killed=False))

    def _do(self, step: Callable[[], None]) -> None:
        if self._program.instant:
            self._carry_out(step)
        else:
            self._steps.put(step)

    def _work(self) -> None:
        """The thread of the process."""
        while self._exit is None:
            self._carry_out(self._steps.get())

    def _carry_out(self, step: Callable[[], None]) -> None:
        if self._exit is not None:
            return
        try:
            step()
        except ProcessKilled:
            return
        except ProcessEnded as end:
            self._report(end)

    def _report(self, end: ProcessEnded) -> None:
        """The process has ended by itself: init's last report, unless it is gone too."""
        report = self._process.report
        report |= {"exit_code": end.exit_code, "signal": end.signal}
        report["oom_kills"] += end.out_of_memory
        if not end.with_init:
            self._process.tell(report)
        code = 128 + end.signal if end.signal is not None else end.exit_code
        self._ended(Exit(exit_code=code, oom_killed=end.out_of_memory))

    def _ended(self, how: Exit) -> None:
        with self._ending:
            if self._exit is not None:
                return
            self._exit = how
        self._process.killed.set()
        self._pipe.end()
        self._steps.put(lambda: None)
