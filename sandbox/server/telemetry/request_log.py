"""Structured logs of executions, and how the server's logs are written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Final, TextIO, cast

import structlog

from sandbox.documents.problems import printable

if TYPE_CHECKING:
    from sandbox.call import Call
    from sandbox.errors import SandboxError
    from sandbox.executions.model import Execution
    from sandbox.models import FunctionResponse

executions = structlog.get_logger(source="sandbox.executions")


# Lines that may wait to be written. Further ones are dropped, and their number is logged.
_MOST_WAITING: Final = 10_000
_GATHER_SECONDS: Final = 0.05
# Made once: `json.dumps` would make one for each line.
_JSON: Final = json.JSONEncoder(default=repr)


class BackgroundStream(io.TextIOBase):
    """A text stream whose lines a thread writes to `stream`, so that logging never blocks.

    In the event loop, each write would release the interpreter lock and wait to get it back. The
    first line wakes the thread, which collects the lines of the next moment and writes them at
    once.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._left_out = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                self._left_out += 1
            else:
                self._waiting.append(text)
                if len(self._waiting) == 1:
                    self._changed.notify()
        return len(text)

    def close(self) -> None:
        """Write the waiting lines, and end the thread."""
        if not self.closed:
            self._closing.set()
            with self._changed:
                self._changed.notify()
            self._thread.join(timeout=5.0)
        super().close()

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            self._closing.wait(_GATHER_SECONDS)
            self._write()
        self._write()

    def _write(self) -> None:
        with self._changed:
            lines, self._waiting = self._waiting, []
            left_out, self._left_out = self._left_out, 0
        if left_out:
            lines.append(f"{left_out} lines were left out here\n")
        with contextlib.suppress(OSError, ValueError):
            self._stream.write("".join(lines))
            self._stream.flush()


def _escape(
    logger: object,  # noqa: ARG001
    name: str,  # noqa: ARG001
    line: structlog.typing.EventDict,
) -> structlog.typing.EventDict:
    """Escape control characters in a line's texts, which come from callers and functions."""
    return {
        key: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for key, value in line.items()
    }


def configure_logging() -> BackgroundStream:
    """Write logs to stderr: JSON lines, or coloured for a terminal. Close the stream at the end."""
    background = BackgroundStream(sys.stderr)
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = (
        [_escape, structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.JSONRenderer(lambda line, **_: _JSON.encode(line))]
    )
    # Requests are logged without `logging`, which takes five times as long per line.
    structlog.configure(
        processors=[*shared, *renderers],
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", background)),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(background)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *renderers,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("sandbox", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    return background


class ExecutionLog:
    """An observer: one line for each execution that has ended."""

    def started(self, execution: Execution, call: Call) -> None:
        """Nothing is written."""

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,  # noqa: ARG002
        error: SandboxError | None,  # noqa: ARG002
        call: Call,  # noqa: ARG002
    ) -> None:
        """Log how it ended, without its input, its output or its own log."""
        executions.info(
            "execution",
            request_id=execution.id,
            function=execution.function,
            status=execution.status,
            code=execution.code,
            caller=execution.caller,
            trigger=execution.trigger,
            attempts=execution.attempts,
            queue_ms=execution.queue_ms,
            run_ms=execution.run_ms,
            cold=execution.cold,
            version=execution.version,
        )
