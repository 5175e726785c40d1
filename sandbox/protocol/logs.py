"""A function's log, from bytes cut anywhere: lines become entries, and nothing grows freely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from sandbox.models import Level, LogEntry
from sandbox.protocol.report import MARK, ExitReport, parse_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_LINE: Final = 8 * 1024
_CUT: Final = " … (cut)"
_LEVELS: Final[dict[str, Level]] = {level: level for level in get_args(Level)}


class LimitExceeded(Exception):  # noqa: N818 - not an error: a limit that did its work
    """The function wrote more than it may. `limit` is "output" or "logs", `observed` in bytes."""

    def __init__(self, limit: str, *, observed: int) -> None:
        super().__init__(f"{limit}: {observed} bytes")
        self.limit = limit
        self.observed = observed


class Lines:
    """Splits bytes into lines; of a line that is too long, the rest is dropped."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._pending = bytearray()
        self._cutting = False

    @property
    def pending(self) -> int:
        """Size of the line that has no end yet."""
        return len(self._pending)

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Complete lines without their ends, each with whether it was cut."""
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._append(part)
            yield self._take()
        self._append(rest)

    def finish(self) -> Iterator[tuple[bytes, bool]]:
        """The last line, if it had no end."""
        if self._pending:
            yield self._take()

    def _append(self, part: bytes) -> None:
        room = self._longest - len(self._pending)
        self._cutting = self._cutting or len(part) > room
        self._pending += part[: max(room, 0)]

    def _take(self) -> tuple[bytes, bool]:
        line, cut = bytes(self._pending), self._cutting
        self._pending.clear()
        self._cutting = False
        return line.removesuffix(b"\r"), cut


class StderrLog:
    """Stderr as log entries, and init's report at its end."""

    def __init__(self, *, now: Callable[[], str], keep_head: int) -> None:
        self._lines = Lines(MAX_LINE)
        self._now = now
        self._candidate: bytes | None = None
        self._keep_head = keep_head
        self.head = bytearray()

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that these bytes complete."""
        for line, cut in self._lines.feed(data):
            yield from self._line(line, cut=cut)

    def finish(self) -> tuple[list[LogEntry], ExitReport | None]:
        """The last entries, and the report if there was one."""
        entries = [
            entry for line, cut in self._lines.finish() for entry in self._line(line, cut=cut)
        ]
        report = parse_report(self._candidate) if self._candidate is not None else None
        if report is None:
            entries += self._candidate_as_log()
        return entries, report

    def _line(self, line: bytes, *, cut: bool) -> Iterator[LogEntry]:
        yield from self._candidate_as_log()
        # What the function wrote last may have had no line end of its own.
        written, mark, report = line.rpartition(MARK)
        if mark:
            self._candidate = mark + report
        else:
            written = line
        if written or not mark:
            yield self._entry(written, cut=cut)

    def _candidate_as_log(self) -> list[LogEntry]:
        candidate, self._candidate = self._candidate, None
        return [] if candidate is None else [self._entry(candidate, cut=False)]

    def _entry(self, line: bytes, *, cut: bool) -> LogEntry:
        room = self._keep_head - len(self.head)
        if room > 0:
            self.head += (line + b"\n")[:room]
        return LogEntry(message=text_of(line, cut=cut), timestamp=self._now())


def text_of(line: bytes, *, cut: bool = False) -> str:
    """A line as text; what is no UTF-8 shows as escapes."""
    return line.decode(errors="backslashreplace") + (_CUT if cut else "")


def entry_from(item: Any, now: str) -> LogEntry:
    """A log entry as a function describes it; what does not fit is kept as text."""
    if not isinstance(item, dict) or "message" not in item:
        return LogEntry(message=_shortened(item), timestamp=now)
    level, data, timestamp = item.get("level"), item.get("data"), item.get("timestamp")
    return LogEntry(
        level=_LEVELS.get(level, "info") if isinstance(level, str) else "info",
        message=_shortened(item["message"]),
        data=data if isinstance(data, dict) or data is None else {"value": data},
        timestamp=timestamp if isinstance(timestamp, str) and len(timestamp) <= 64 else now,
    )


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_LINE else text[:MAX_LINE] + _CUT
