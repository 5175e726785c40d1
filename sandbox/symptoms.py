"""What a function that failed says itself about the limit it ran into. Pure.

For some limits the kernel keeps no count: a process that may open no more files gets an errno,
and only its own words tell. Every language writes the same few: the errno's name, or the text
that the C library has for it. They are a hint, not a measurement, and no more is made of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sandbox.models import FunctionError, LogEntry

Symptom = Literal["open_files", "space", "file_size", "processes", "heap", "network"]

# What it died of is said last, so only the end of the logs is looked at.
_LAST_ENTRIES: Final = 32
_LONGEST: Final = 8 * 1024

_WORDS: Final[Mapping[Symptom, str]] = {
    "open_files": r"\bEMFILE\b|too many open files",
    "space": r"\bENOSPC\b|no space left on device",
    "file_size": r"\bEFBIG\b|file too large|file size limit exceeded",
    "processes": r"\bEAGAIN\b|resource temporarily unavailable|can't start new thread"
    r"|failed to create new OS thread|cannot fork",
    "heap": r"\bENOMEM\b|cannot allocate memory|heap out of memory|runtime: out of memory",
    "network": r"\bE(?:NOTFOUND|AI_AGAIN|NETUNREACH|HOSTUNREACH)\b|network is unreachable"
    r"|no route to host|temporary failure in name resolution|name or service not known"
    r"|no such host|failed to lookup address",
}
_PATTERN: Final = re.compile(
    "|".join(f"(?P<{symptom}>{words})" for symptom, words in _WORDS.items()), re.IGNORECASE
)


def symptoms(error: FunctionError | None, logs: Sequence[LogEntry] = ()) -> frozenset[Symptom]:
    """The limits that a failure's error and the end of its logs speak of; none without an error."""
    if error is None:
        return frozenset()
    return frozenset(
        match.lastgroup  # type: ignore[misc] # one of the names above
        for text in _texts(error, logs[-_LAST_ENTRIES:])
        for match in _PATTERN.finditer(text[:_LONGEST])
    )


def _texts(error: FunctionError, logs: Iterable[LogEntry]) -> Iterator[str]:
    yield error.code
    yield error.message
    yield from (value for value in error.details.values() if isinstance(value, str))
    yield from (entry.message for entry in logs)
