"""What the container's init reports: how the function ended and what it used.

Init writes it as the very last line of stderr, after every process of the function is dead, so
only what ends the stream counts; a line like it that the function prints is a log as others are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.protocol.json_values import JSONValueError, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

MARK: Final = b"\x1e"  # ASCII's record separator
_LONGEST: Final = 512
# The largest value of each field. A report can be forged when init itself was killed.
_MOST: Final[Mapping[str, int]] = {
    "exit_code": 255,
    "signal": 64,
    "cpu_ms": 2**53,
    "peak_memory_bytes": 2**63 - 1,
    "oom_kills": 2**63 - 1,
    "pids_denied": 2**63 - 1,
    "exec_errno": 4095,
}


@dataclass(frozen=True, kw_only=True)
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


class ReportTail:
    """Holds back the end of stderr that may be the report; the rest passes at once."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of the stream so far is known to be no report, and was not returned before."""
        data = self._held + data
        mark = data.rfind(MARK, max(len(data) - _LONGEST, 0))
        end = mark if mark >= 0 else len(data)
        self._held = data[end:]
        return data[:end]

    def finish(self) -> tuple[ExitReport | None, bytes]:
        """At the end of the stream: the report, or None and what was held back."""
        held, self._held = self._held, b""
        report = parse_report(held)
        return report, b"" if report else held


def parse_report(line: bytes) -> ExitReport | None:
    """The report in a line that begins with MARK, or None if it is none."""
    if not line.startswith(MARK):
        return None
    try:
        document = loads(line[len(MARK) :])
    except JSONValueError:
        return None
    if not isinstance(document, dict) or document.keys() != _MOST.keys():
        return None
    for name, value in document.items():
        number = int | float if name == "cpu_ms" else int
        if value is not None and (
            isinstance(value, bool)
            or not isinstance(value, number)
            or not 0 <= value <= _MOST[name]
        ):
            return None
    return ExitReport(**document)
