"""A function's log, from bytes cut anywhere: lines become entries, and nothing grows freely."""

from __future__ import annotations

import codecs
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, get_args

from sandbox.models import Level, LogEntry, dump_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

MAX_LINE: Final = 8 * 1024
# Each entry counts for at least so many bytes, because a million empty lines are not free.
MIN_ENTRY: Final = 64
# The end of a message that was cut.
CUT: Final = " … (cut)"
_REST_CUT: Final = "… (the rest of the logs was cut)"
# A thread that needs the interpreter waits up to 5 ms for it. Offering it after so many items
# spares others that wait.
_ITEMS_IN_A_ROW: Final = 64
_LEVELS: Final[dict[str, Level]] = {level: level for level in get_args(Level)}


class LimitExceeded(Exception):  # noqa: N818 - not an error: a limit that did its work
    """The function wrote more than it may. `limit` is "output" or "logs", `observed` in bytes."""

    def __init__(self, limit: str, *, observed: int) -> None:
        super().__init__(f"{limit}: {observed} bytes")
        self.limit = limit
        self.observed = observed


class Line(NamedTuple):
    """A line without its end. `size` is in bytes, before it was cut, with its end."""

    data: bytes
    size: int
    cut: bool

    def entry(self, timestamp: str) -> LogEntry:
        text = text_of(self.data, whole=not self.cut) + (CUT if self.cut else "")
        return LogEntry(message=text, timestamp=timestamp)


class LineSplitter:
    """Splits bytes into lines. Of a line longer than `longest`, it drops the rest."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._kept = bytearray()
        self._length = 0

    @property
    def pending(self) -> int:
        """Size of the line that is not complete yet."""
        return self._length

    def feed(self, data: bytes) -> Iterator[Line]:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self._length or end - start > self._longest:
                self._append(data[start:end])
                yield self._take(end_size=1)
            else:  # nearly always: whole, and not too long
                yield Line(data[start:end].removesuffix(b"\r"), end - start + 1, cut=False)
            start = end + 1
        self._append(data[start:])

    def finish(self) -> Iterator[Line]:
        """The last line, if it had no end."""
        if self._length:
            yield self._take(end_size=0)

    def _append(self, part: bytes) -> None:
        self._kept += part[: max(self._longest - self._length, 0)]
        self._length += len(part)

    def _take(self, *, end_size: int) -> Line:
        cut = self._length > len(self._kept)
        line = Line(bytes(self._kept).removesuffix(b"\r"), self._length + end_size, cut)
        self._kept.clear()
        self._length = 0
        return line


class LogCollector:
    """Collects entries up to a cap of `max_bytes`, and none after it was exceeded."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._observed = 0
        self.entries: list[LogEntry] = []
        self.size = 0

    def add(self, entry: LogEntry, size: int) -> None:
        """Add an entry that took `size` bytes of output. Raises LimitExceeded."""
        size = max(size, MIN_ENTRY)
        self.check(size)
        self.size += size
        self.entries.append(entry)

    def check(self, coming: int) -> None:
        """Raise LimitExceeded if `coming` more bytes are too many, and at every later call."""
        if self._observed or self.size + coming > self._max_bytes:
            self._observed = self._observed or self.size + coming
            raise LimitExceeded("logs", observed=self._observed)

    def finish(self, timestamp: str) -> tuple[LogEntry, ...]:
        """All entries. The last one says if there were more."""
        if not self._observed:
            return tuple(self.entries)
        return (*self.entries, LogEntry(level="warn", message=_REST_CUT, timestamp=timestamp))


def text_of(data: bytes, *, whole: bool = True) -> str:
    """Decode bytes; invalid UTF-8 shows as escapes.

    Unless they are `whole`, an incomplete character at the end is left out.
    """
    try:
        return data.decode()  # nearly always, and ten times as fast
    except UnicodeDecodeError:
        return codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(data, final=whole)


def entry_from(item: Any, now: str) -> LogEntry:
    """The log entry that a function describes. Parts of the wrong type are kept as text."""
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
    text = value if isinstance(value, str) else dump_json(value)
    return text if len(text) <= MAX_LINE else text[:MAX_LINE] + CUT


def yield_to_threads(items: Iterable[T]) -> Iterator[T]:
    """The same items; other threads get the interpreter now and then, so no flood stops them."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % _ITEMS_IN_A_ROW:
            time.sleep(0)
