"""The handler interface: messages of the image's bootstrap, one JSON object on each line of stdout.

    {"type": "ready"}                          the handler is imported and waits for a request
    {"type": "init_error", "error": {…}}       it could not be imported
    {"type": "log", "level": …, "message": …}  the handler logged
    {"type": "response", "request_id": …, "success": …, "output" or "error": …, "usage": {…}}

Everything that the handler prints goes to stderr, so only the bootstrap writes here. A function
that finds a way to write here nevertheless can spoil its own response, and no other.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sandbox.errors import Code
from sandbox.protocol.json_values import JSONValueError, loads
from sandbox.protocol.logs import (
    MIN_ENTRY,
    LimitExceeded,
    LineSplitter,
    entry_from,
    yield_to_threads,
)
from sandbox.protocol.response import SHOWN, Collector, Parsed, Usage, error_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.models import FunctionError, JsonObject
    from sandbox.protocol.logs import Line
    from sandbox.protocol.report import Marks

_NO_RESPONSE: Final = "the handler ended before it answered"


class HandlerCollector(Collector):
    """Collects the messages of a handler's bootstrap. The response is complete with its line."""

    def __init__(
        self, *, max_output: int, max_logs: int, now: Callable[[], str], marks: Marks | None = None
    ) -> None:
        super().__init__(max_output=max_output, max_logs=max_logs, now=now, marks=marks)
        # A log message may exceed the output's cap, and an output the logs' cap.
        self._longest = max(max_output, max_logs)
        self._lines = LineSplitter(self._longest)
        self._ready = False
        self._response: JsonObject | None = None
        self._response_end = 0
        self._init_error: FunctionError | None = None
        self._spoiled: tuple[str, bytes] | None = None
        self._expected: str | None = None
        self.mismatched = False

    def expect(self, request_id: str) -> None:
        """Accept only the response to this request: a container may serve several.

        Any other response sets `mismatched`: the container is not to be trusted any more.
        """
        self._expected = request_id

    @property
    def ready(self) -> bool:
        """Whether the handler has been imported, and waits for its request."""
        return self._ready

    @property
    def complete(self) -> bool:
        return self._response is not None

    @property
    def spoiled(self) -> bool:
        """Whether it got a message that no bootstrap sends, or the answer to another request."""
        return self._spoiled is not None

    @property
    def settled(self) -> bool:
        """Whether a report has come after the response, and so everything printed before it."""
        behind = self.report is not None and self.report.stdout_bytes >= self._response_end
        return (self.complete and behind) or self.ended

    @property
    def init_error(self) -> FunctionError | None:
        return self._init_error

    def _feed_stdout(self, data: bytes) -> None:
        for line in yield_to_threads(self._lines.feed(data)):
            self._take_line(line)
        if self._lines.pending > self._longest:
            self._count_output(self._lines.pending)

    def _take_line(self, line: Line) -> None:
        try:
            message = loads(line.data) if line.data.strip() else {}
        except JSONValueError as error:
            self._count_message(line)
            self._spoil(str(error), line.data)
            return
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "log":
            self._log.add(entry_from(message, self._now()), line.size)
            return
        self._count_message(line)
        if kind == "ready":
            self._ready = True
        elif kind == "init_error":
            self._init_error = replace(error_from(message), code=Code.INIT_FAILED)
        elif kind == "response" and isinstance(message.get("success"), bool):
            self._take_response(message, line)
        elif message != {}:
            self._spoil("a message that the bootstrap never sends", line.data)

    def _count_message(self, line: Line) -> None:
        # Each message counts for at least this much: parsing millions would take half a minute.
        self._count_output(max(line.size, MIN_ENTRY))

    def _take_response(self, message: JsonObject, line: Line) -> None:
        if self._expected is not None and message.get("request_id") != self._expected:
            self.mismatched = True
            self._spoil("a response to another request", line.data)
        elif self._response is None:
            self._response = message
            self._response_end = self._marks.stdout_bytes
            self.usage = _usage(message.get("usage"))

    def _spoil(self, reason: str, line: bytes) -> None:
        if self._spoiled is None:
            self._spoiled = (reason, line[: SHOWN + 1])

    def _parse(self) -> Parsed:
        with contextlib.suppress(LimitExceeded):
            for unfinished in self._lines.finish():
                self._take_line(unfinished)
        if self._response is None:
            reason, line = self._spoiled or (_NO_RESPONSE, b"")
            return self._invalid(reason, line)
        return self._well_formed(self._response)


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    cpu, peak = _number(value.get("cpu_ms")), _number(value.get("peak_memory_bytes"))
    return Usage(cpu_ms=cpu, peak_memory_bytes=None if peak is None else int(peak))


def _number(value: Any) -> float | None:
    """A number that can be one of these; a function that forges the message can say anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < 2**63 else None
