"""What the container's init reports: how the function ended and what it used.

Init writes it as the very last line of stderr, after every process of the function is dead, so
only the last such line counts; one that the function prints itself is a log line like others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from sandbox.protocol.json_values import JSONValueError, loads

MARK: Final = b"\x1e"  # ASCII's record separator
_LONGEST: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitReport:
    """How the function ended; None where init could not tell.

    `oom_kills` counts kills by the memory limit, `pids_denied` processes refused by theirs, in
    the whole container; `exec_errno` is set when the command could not be run at all.
    """

    exit_code: int | None
    signal: int | None
    cpu_ms: float | None
    peak_memory_bytes: int | None
    oom_kills: int | None
    pids_denied: int | None
    exec_errno: int | None


def parse_report(line: bytes) -> ExitReport | None:
    """The report in a line that begins with MARK, or None if it is none."""
    if not line.startswith(MARK) or len(line) > _LONGEST:
        return None
    try:
        document = loads(line[len(MARK) :])
    except JSONValueError:
        return None
    names = {field.name for field in fields(ExitReport)}
    if not isinstance(document, dict) or document.keys() != names:
        return None
    for name, value in document.items():
        number = int | float if name == "cpu_ms" else int
        if value is not None and (isinstance(value, bool) or not isinstance(value, number)):
            return None
    return ExitReport(**document)
