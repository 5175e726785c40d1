"""The end of a log as text, and back: what is recorded of an execution's log. Pure.

A line for each entry: time, level, message, data as JSON. Further lines of a message are indented,
so that no message can forge an entry.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast, get_args

from sandbox.models import Level, LogEntry, dump_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_INDENT: Final = "    "
_TIMESTAMP: Final = re.compile(r"[0-9TZ:.+-]{1,40}")
_ENTRY: Final = re.compile(rf"([0-9TZ:.+-]{{1,40}}) ({'|'.join(get_args(Level))}) (.*)", re.DOTALL)


def storable(text: str) -> str:
    """`text` as every database takes it: without NUL, and valid in UTF-8."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def log_tail(entries: Sequence[LogEntry], *, most: int) -> str:
    """The last entries as text of at most `most` bytes; one longer entry loses its beginning."""
    lines: list[str] = []
    room = most
    for entry in reversed(entries):
        if room <= 0:
            break
        line = storable(_line(entry))
        size = len(line.encode()) + 1
        if size > room:
            if not lines:
                lines.append(line.encode()[-room:].decode(errors="ignore"))
            break
        lines.append(line)
        room -= size
    return "\n".join(reversed(lines))


def tail_entries(tail: str) -> list[LogEntry]:
    """The entries of a tail; `data` stays in the message, as text."""
    texts: list[str] = []
    for line in tail.split("\n") if tail else ():
        if texts and not _ENTRY.fullmatch(line):
            texts[-1] += f"\n{line.removeprefix(_INDENT)}"
        else:
            texts.append(line)
    return list(_entries(texts))


def _entries(texts: Iterable[str]) -> Iterable[LogEntry]:
    for text in texts:
        match = _ENTRY.fullmatch(text)
        if match is None:
            yield LogEntry(message=text, timestamp="-")
        else:
            level = cast("Level", match[2])  # the pattern has no others
            yield LogEntry(level=level, message=match[3], timestamp=match[1])


def _line(entry: LogEntry) -> str:
    timestamp = entry.timestamp if _TIMESTAMP.fullmatch(entry.timestamp) else "-"
    message = entry.message.replace("\n", f"\n{_INDENT}")
    data = f" {dump_json(entry.data)}" if entry.data else ""
    return f"{timestamp} {entry.level} {message}{data}"
