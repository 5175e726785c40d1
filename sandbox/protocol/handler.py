"""The handler interface: what the image's bootstrap says, one JSON message on each line of stdout.

    {"type": "ready"}                          the handler is imported and waits for a request
    {"type": "init_error", "error": {…}}       it could not be imported
    {"type": "log", "level": …, "message": …}  the handler logged
    {"type": "response", "request_id": …, "success": …, "output" or "error": …, "usage": {…}}

What the handler prints goes to stderr, so only the bootstrap writes here; a function that finds
the way nevertheless can spoil its own response, and nobody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sandbox.errors import Code
from sandbox.protocol.json_values import JSONValueError, loads
from sandbox.protocol.logs import Lines, entry_from
from sandbox.protocol.response import Collector, Parsed, Usage, error_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.models import FunctionError, JsonObject

_NO_RESPONSE: Final = "the handler ended before it answered"


class HandlerCollector(Collector):
    """Collects what a handler's bootstrap says; the response is known as soon as its line is."""

    def __init__(self, *, max_output: int, max_logs: int, now: Callable[[], str]) -> None:
        super().__init__(max_output=max_output, max_logs=max_logs, now=now)
        # A log message may be longer than the output's cap, and the other way round.
        self._lines = Lines(max(max_output, max_logs) + 1)
        self._ready = False
        self._response: JsonObject | None = None
        self._init_error: FunctionError | None = None
        self._spoiled: tuple[str, bytes] | None = None

    @property
    def ready(self) -> bool:
        """Whether the handler has been imported."""
        return self._ready

    @property
    def complete(self) -> bool:
        """Whether the response has come."""
        return self._response is not None

    @property
    def init_error(self) -> FunctionError | None:
        """Why the handler could not be imported, if it said so."""
        return self._init_error

    def _feed_stdout(self, data: bytes) -> None:
        for line, _ in self._lines.feed(data):
            self._message(line)
        pending = self._lines.pending
        if pending > max(self._max_output, self._max_logs):
            self._count_output(pending)

    def _message(self, line: bytes) -> None:
        if not line.strip() or self._response is not None:
            return
        try:
            message = loads(line)
        except JSONValueError as error:
            self._spoil(str(error), line)
            return
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "log":
            self._count_logs(len(line))
            self._logs.append(entry_from(message, self._now()))
            return
        self._count_output(len(line))
        if kind == "ready":
            self._ready = True
        elif kind == "init_error":
            said = error_from(message)
            self._init_error = said.model_copy(update={"code": Code.INIT_FAILED})
        elif kind == "response" and isinstance(message.get("success"), bool):
            self._response = message
            self.usage = _usage(message.get("usage"))
        else:
            self._spoil("a message that the bootstrap never sends", line)

    def _spoil(self, reason: str, line: bytes) -> None:
        if self._spoiled is None:
            self._spoiled = (reason, line)

    def _parse(self) -> Parsed:
        if self._response is None:
            reason, line = self._spoiled or (_NO_RESPONSE, b"")
            return self._invalid(reason, line)
        self._response.pop("logs", None)  # they came as messages
        return self._well_formed(self._response)


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    cpu, peak = _number(value.get("cpu_ms")), _number(value.get("peak_memory_bytes"))
    return Usage(cpu_ms=cpu, peak_memory_bytes=None if peak is None else int(peak))


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
