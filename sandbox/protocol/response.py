"""Turns a function's output into its response, by the rules of the contract for stdio.

The first rule that matches wins:

1. the whole of stdout is one JSON object;
2. the last line that is not empty is a JSON object that has `success`; lines before it are logs;
3. otherwise INVALID_RESPONSE, with the beginning of stdout and stderr in the details.

An object with `error` and without `success` is a failure; one with neither is no response.
The response is complete before the function ends when stdout so far is one response object, with
`output` or `error`, and init reports that nothing is under way. Later output is not waited for.
Bytes are kept up to the caps. A function that exceeds a cap while it writes causes an exception,
because it is to be killed. Output that only turns out to be a log at the end, when the function has
answered, is cut at the cap.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sandbox.errors import Code
from sandbox.models import FunctionError, dump_json
from sandbox.protocol.json_values import JSONValueError, loads
from sandbox.protocol.logs import (
    MAX_LINE,
    LimitExceeded,
    LineSplitter,
    LogCollector,
    entry_from,
    text_of,
    yield_to_threads,
)
from sandbox.protocol.report import Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sandbox.engine.base import Chunk
    from sandbox.models import JsonObject, LogEntry
    from sandbox.protocol.logs import Line
    from sandbox.protocol.report import Report

# Bytes of each stream that an INVALID_RESPONSE shows.
SHOWN: Final = 2 * 1024
# There can be millions. Each match begins after a line's end, so no byte is scanned twice.
_BLANK_LINES: Final = re.compile(rb"(?<=\n)\s*\n")


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The outcome that a function's output describes.

    If it is `well_formed`, the function gave a response of success or failure. Else `error` is an
    INVALID_RESPONSE that says why not.
    """

    well_formed: bool
    output: Any
    error: FunctionError | None
    logs: tuple[LogEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a function used, as its bootstrap reports it with the response."""

    cpu_ms: float | None
    peak_memory_bytes: int | None


class Collector:
    """The common part of both interfaces: logs, caps, and init's reports.

    `max_output` and `max_logs` are in bytes; `now` gives the time stamps of the contract. `marks`
    belong to the container, and are passed on if it serves several requests.
    """

    def __init__(
        self, *, max_output: int, max_logs: int, now: Callable[[], str], marks: Marks | None = None
    ) -> None:
        self._max_output = max_output
        self._max_logs = max_logs
        self._now = now
        self._log = LogCollector(max_logs)
        self._marks = marks or Marks()
        self._stderr_lines = LineSplitter(MAX_LINE)
        self._stderr_head = b""
        self.output_bytes = 0
        self.usage: Usage | None = None

    @property
    def ready(self) -> bool:
        """Whether the function has booted and waits for its request."""
        return self._marks.ready

    @property
    def complete(self) -> bool:
        """Whether the response is known, before the end of the stream."""
        return False

    @property
    def settled(self) -> bool:
        """Whether everything written before the response has come, or the function has ended."""
        return self.complete or self.ended

    @property
    def entries(self) -> Sequence[LogEntry]:
        return self._log.entries

    @property
    def report(self) -> Report | None:
        return self._marks.report

    @property
    def ended(self) -> bool:
        """Whether the function has ended, and all its output has come."""
        return self._marks.whole and self.report is not None and self.report.ended

    @property
    def init_error(self) -> FunctionError | None:
        return None

    @property
    def spoiled(self) -> bool:
        """Whether the function broke the protocol."""
        return False

    @property
    def answered(self) -> bool:
        """Whether a response has come, though the function may not have ended."""
        return self.complete

    @property
    def log_bytes(self) -> int:
        """Bytes of the logs so far, as counted against their cap."""
        return self._log.size + self._stderr_lines.pending

    @property
    def filled(self) -> float:
        """The used part of the fuller cap, from 0 to 1."""
        most = max(self.log_bytes / self._max_logs, self.output_bytes / self._max_output)
        return min(most, 1.0)

    def feed(self, chunk: Chunk) -> list[LogEntry]:
        """Take output of the container; returns the log entries that it completes.

        Raises:
            LimitExceeded: the output or the logs went over their cap.
        """
        before = len(self._log.entries)
        if chunk.stream == "stderr":
            self._feed_stderr(self._marks.feed(chunk.data))
        else:
            self._marks.stdout_bytes += len(chunk.data)
            self._feed_stdout(chunk.data)
        self._look()
        return self._log.entries[before:]

    def finish(self) -> Parsed:
        """The outcome of everything that was fed. Call it once, at the end."""
        with contextlib.suppress(LimitExceeded):
            self._feed_stderr(self._marks.finish())
            self._add_lines(self._stderr_lines.finish())
        return self._parse()

    def _feed_stderr(self, data: bytes) -> None:
        # One byte more than is shown, to know whether there is more.
        self._stderr_head += data[: SHOWN + 1 - len(self._stderr_head)]
        self._log.check(self._stderr_lines.pending)
        self._add_lines(self._stderr_lines.feed(data))
        self._log.check(self._stderr_lines.pending)

    def _add_lines(self, lines: Iterable[Line]) -> None:
        now = self._now()  # they came together, so they get one time
        for line in yield_to_threads(lines):
            self._log.add(line.entry(now), line.size)

    def _feed_stdout(self, data: bytes) -> None:
        raise NotImplementedError

    def _look(self) -> None:
        """Look for the response; called after each chunk."""

    def _parse(self) -> Parsed:
        raise NotImplementedError

    def _count_output(self, size: int) -> None:
        self.output_bytes += size
        if self.output_bytes > self._max_output:
            raise LimitExceeded("output", observed=self.output_bytes)

    def _invalid(self, reason: str, stdout: bytes) -> Parsed:
        return Parsed(
            well_formed=False,
            output=None,
            error=FunctionError(
                code=Code.INVALID_RESPONSE,
                message=f"what it wrote to stdout is no response: {reason}",
                details={
                    "reason": reason,
                    "stdout": _shown(stdout),
                    "stderr": _shown(self._stderr_head),
                },
            ),
            logs=self._log.finish(self._now()),
        )

    def _well_formed(self, document: JsonObject) -> Parsed:
        succeeded = document["success"]
        return Parsed(
            well_formed=True,
            output=document.get("output") if succeeded else None,
            error=None if succeeded else error_from(document),
            logs=self._log.finish(self._now()),
        )


class StdioCollector(Collector):
    """Collects what a stdio function writes; the response is all of stdout, or its last line."""

    def __init__(
        self, *, max_output: int, max_logs: int, now: Callable[[], str], marks: Marks | None = None
    ) -> None:
        super().__init__(max_output=max_output, max_logs=max_logs, now=now, marks=marks)
        self._stdout = bytearray()
        self._complete = False
        self._looked_at = 0
        # The result of `_find_response` for so many bytes: parsing takes time.
        self._found: tuple[int, tuple[JsonObject | None, bytes, str]] | None = None

    def _feed_stdout(self, data: bytes) -> None:
        self._stdout += data[: max(self._max_output - self.output_bytes, 0)]
        self._count_output(len(data))

    def _look(self) -> None:
        # Parsing again only after the size has doubled bounds the work, however the bytes come.
        if not self._marks.whole or len(self._stdout) < 2 * self._looked_at or not self._stdout:
            return
        self._looked_at = len(self._stdout)
        if self._stdout.endswith((b"}", b"}\n")):
            document, _ = _object(bytes(self._stdout))
            self._complete = document is not None and (
                not _why_no_response(document) and ("output" in document or "error" in document)
            )

    @property
    def complete(self) -> bool:
        """Whether stdout so far is a response, and init reports nothing under way."""
        return self._complete

    @property
    def answered(self) -> bool:
        """Whether stdout so far is a response, though the function has not ended."""
        return self._find()[0] is not None

    def _find(self) -> tuple[JsonObject | None, bytes, str]:
        if self.output_bytes > self._max_output:
            return None, b"", "it is over its cap"  # so parsing, which copies it, is not worth it
        if self._found is None or self._found[0] != len(self._stdout):
            self._found = len(self._stdout), _find_response(bytes(self._stdout))
        return self._found[1]

    def _parse(self) -> Parsed:
        document, before, reason = self._find()
        if document is None:
            return self._invalid(reason, bytes(self._stdout[: SHOWN + 1]))
        before = _BLANK_LINES.sub(b"", before)
        lines = LineSplitter(MAX_LINE)
        with contextlib.suppress(LimitExceeded):
            self._add_lines(line for line in lines.feed(before) if line.data.strip())
            self._add_lines(line for line in lines.finish() if line.data.strip())
            listed = document.get("logs")
            for item in listed if isinstance(listed, list) else ():
                self._log.add(entry_from(item, self._now()), len(dump_json(item)))
        return self._well_formed(document)


def _find_response(stdout: bytes) -> tuple[JsonObject | None, bytes, str]:
    """The response document and the bytes before it; or None, nothing, and the reason."""
    document, reason = _object(stdout)
    if document is not None:
        reason = _why_no_response(document)
        return (None, b"", reason) if reason else (document, b"", "")
    before, _, last = stdout.rstrip().rpartition(b"\n")
    if before.strip():
        document, why = _object(last)
        if document is not None and "success" in document:
            reason = _why_no_response(document)
            return (None, b"", reason) if reason else (document, before, "")
        reason = f"neither all of it nor its last line is a response ({why or reason})"
    return None, b"", reason


def error_from(document: JsonObject) -> FunctionError:
    """The error of a failed response, in any of the forms that functions use."""
    error, code = document.get("error"), document.get("error_code")
    message: Any = error
    details: Any = None
    if isinstance(error, dict):
        code = error.get("code", code)
        message = error.get("message")
        details = error.get("details")
    return FunctionError(
        code=code if isinstance(code, str) and code else Code.FUNCTION_ERROR,
        message=_message(message),
        details=_details(details),
    )


def _message(value: Any) -> str:
    if value is None or value == "":
        return "the function reported a failure and did not say why"
    return value if isinstance(value, str) else dump_json(value)


def _details(value: Any) -> JsonObject:
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"details": value}


def _shown(data: bytes) -> str:
    return text_of(data[:SHOWN], whole=len(data) <= SHOWN)


def _object(data: bytes) -> tuple[JsonObject | None, str]:
    """The JSON object in `data`, or None and the reason."""
    if not data.strip():
        return None, "it is empty"
    try:
        value = loads(data)
    except JSONValueError as error:
        return None, str(error)
    return (value, "") if isinstance(value, dict) else (None, "it is JSON, but no object")


def _why_no_response(document: JsonObject) -> str:
    """Why a JSON object is no response, or "" if it is one."""
    if "success" not in document:
        if "error" not in document:
            return "the object has no `success`"
        document["success"] = False
    if not isinstance(document["success"], bool):
        return "`success` is neither true nor false"
    return ""
