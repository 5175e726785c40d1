"""What the process of a fake container can do. It speaks as the images' init and bootstraps do.

See `images/base/init.c`, `sandbox.protocol.report` and `sandbox.protocol.handler`.
"""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sandbox.engine.base import Chunk
from sandbox.models import timestamp_now
from sandbox.protocol.report import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.engine.base import StreamName
    from sandbox.models import Level
    from sandbox.testing.pipe import Pipe

_REPORT: Final[Mapping[str, Any]] = {
    "exit_code": None, "signal": None, "exec_errno": None, "cpu_ms": 1.5,
    "peak_memory_bytes": 9_000_000, "oom_kills": 0, "pids_denied": 0, "tmp_bytes": 0,
    "tmp_full": False, "shm_full": False, "largest_file": None, "denied": [], "denied_more": 0,
    "stdout_bytes": 0,
}  # fmt: skip
# Made once: `json.dumps` with options of its own makes an encoder for each call.
_encode: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_FLOOD: Final = (b"x" * 1023 + b"\n") * 64


class ProcessEnded(BaseException):
    """The process ends by itself. It is no `Exception`, so that functions do not catch it."""

    def __init__(
        self,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        out_of_memory: bool = False,
        with_init: bool = False,
    ) -> None:
        super().__init__(f"exit code {exit_code}, signal {signal}")
        self.exit_code = exit_code
        self.signal = signal
        self.out_of_memory = out_of_memory
        self.with_init = with_init


class ProcessKilled(BaseException):
    """The container was killed meanwhile."""


class FakeProcess:
    """The process of a container, for the Python function that plays it.

    `report` is what init reports from now on: set `tmp_full`, `pids_denied`, `cpu_ms` and the other
    fields of `sandbox.protocol.report.Report` there. `killed` is set when the container has been
    killed or has ended.
    """

    def __init__(self, pipe: Pipe, *, nonce: str, handler: bool) -> None:
        self.report: dict[str, Any] = dict(_REPORT)
        self.killed = threading.Event()
        self._pipe = pipe
        self._mark = MARK.decode() + nonce
        self._handler = handler

    def write(self, data: bytes | str, stream: StreamName = "stdout") -> None:
        """Write bytes. A handler prints to stderr; its stdout carries the protocol."""
        data = data.encode() if isinstance(data, str) else data
        self._pipe.write(Chunk(stream, data))
        if stream == "stdout":
            self.report["stdout_bytes"] += len(data)
            self.tell(self.report)

    def tell(self, document: Mapping[str, Any]) -> None:
        """Write a line as init does: a report, or `{"ready": true}`."""
        self.write(f"{self._mark}{_encode(document)}\n", "stderr")

    def respond(self, document: Mapping[str, Any]) -> None:
        """Write a response document, whether there was a request or not."""
        kind = {"type": "response"} if self._handler else {}
        self.write(_encode({**kind, **document}) + "\n")

    def log(self, level: Level, message: object, data: object = None) -> None:
        """Write a log entry. A stdio function has no levels and no data: it prints to stderr."""
        if not self._handler:
            self.write(f"{message}\n", "stderr")
            return
        entry = {"level": level, "message": str(message), "data": data}
        self.write(_encode({"type": "log", **entry, "timestamp": timestamp_now()}) + "\n")

    def sleep(self, seconds: float) -> None:
        """Wait for that long, or until the container is killed, which ends the process."""
        if self.killed.wait(seconds):
            raise ProcessKilled

    def stall(self) -> NoReturn:
        """Do nothing more until the container is killed."""
        self.killed.wait()
        raise ProcessKilled

    def flood(self, stream: StreamName = "stdout") -> NoReturn:
        """Write lines until the container is killed, as fast as they are read."""
        while self._pipe.wait_until_read():
            self.write(_FLOOD, stream)
        self.stall()

    def exit(self, code: int = 0) -> NoReturn:
        """End with that exit code."""
        raise ProcessEnded(exit_code=code)

    def die(self, number: int = signal.SIGKILL, *, with_init: bool = False) -> NoReturn:
        """End by a signal. `with_init` ends init too: then only the engine knows how it ended."""
        raise ProcessEnded(signal=number, with_init=with_init)

    def run_out_of_memory(self, *, with_init: bool = False) -> NoReturn:
        """Be killed by the memory limit, `with_init` together with init, as under gVisor."""
        raise ProcessEnded(signal=signal.SIGKILL, out_of_memory=True, with_init=with_init)
