"""Reads the reports of the container's init from stderr, where the function writes too.

A report is a line that begins with the record separator and the container's nonce. Init keeps the
nonce from the function. A report follows everything that the function wrote to stdout, and a last
one comes when every process of the function is dead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sandbox.protocol.json_values import JSONValueError, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

MARK: Final = b"\x1e"  # ASCII's record separator
# The variable that tells init the nonce.
NONCE_VARIABLE: Final = "SANDBOX_NONCE"
_LONGEST: Final = 8 * 1024
_READY: Final = b'{"ready":true}'
# The largest value of each number.
_MOST: Final[Mapping[str, int]] = {
    "exit_code": 255,
    "signal": 64,
    "exec_errno": 4095,
    "cpu_ms": 2**53,
    "peak_memory_bytes": 2**63 - 1,
    "oom_kills": 2**63 - 1,
    "pids_denied": 2**63 - 1,
    "tmp_bytes": 2**63 - 1,
    "largest_file": 2**63 - 1,
    "denied_more": 2**63 - 1,
    "stdout_bytes": 2**63 - 1,
}
_FLAGS: Final = ("tmp_full", "shm_full")
_NAMES: Final = "denied"
# A looked-up name as init writes it, with "?" for characters that no name has.
_NAME: Final = re.compile(r"[A-Za-z0-9._?-]{1,253}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a container has used so far, and how it ended; None for what init could not tell.

    `exit_code` or `signal` is set once its command has ended, and `exec_errno` if it could not be
    run at all. `oom_kills` counts kills by the memory limit, `pids_denied` processes refused by
    theirs, in the whole container. `tmp_bytes` are used in `/tmp`; `tmp_full` and `shm_full` tell
    that nothing more fits; `largest_file` is the size of the largest one in `/tmp`. `denied` are
    names that were looked up and that the function may not reach, and `denied_more` counts those
    beyond the first few. `stdout_bytes` is what init has passed on before it wrote this.
    """

    exit_code: int | None = None
    signal: int | None = None
    exec_errno: int | None = None
    cpu_ms: float | None = None
    peak_memory_bytes: int | None = None
    oom_kills: int | None = None
    pids_denied: int | None = None
    tmp_bytes: int | None = None
    tmp_full: bool | None = None
    shm_full: bool | None = None
    largest_file: int | None = None
    denied: tuple[str, ...] = ()
    denied_more: int = 0
    stdout_bytes: int = 0

    @property
    def ended(self) -> bool:
        return self.exit_code is not None or self.signal is not None


class Marks:
    """Takes init's lines out of the chunks of a container's stderr, and keeps the reports."""

    def __init__(self, nonce: str = "") -> None:
        self._start = MARK + nonce.encode() + b"{"
        self._held = b""
        # Whether init has announced that the command waits for its request.
        self.ready = False
        # The latest report.
        self.report: Report | None = None
        # How much of stdout has come. The reader of stdout counts it.
        self.stdout_bytes = 0

    @property
    def whole(self) -> bool:
        """Whether all output before the latest report has come."""
        return self.report is not None and self.report.stdout_bytes == self.stdout_bytes

    def feed(self, data: bytes) -> bytes:
        """The bytes that the function itself wrote. What may begin a mark is held back."""
        data = self._held + data
        passed: list[bytes] = []
        latest = b""
        at = 0
        while (start := data.find(self._start, at)) >= 0:
            passed.append(data[at:start])
            end = data.find(b"\n", start)
            if end < 0:
                at = start
                break
            at = end + 1
            text = data[start + len(self._start) - 1 : end]
            if text == _READY:
                self.ready = True
                continue
            # A function that writes single bytes causes a report for each, so only the latest is
            # parsed.
            latest, report = data[start:at], text
        if latest and not self._take(report):
            passed.append(latest)
        rest = data[at:]
        held = len(rest) if start >= 0 else _overlap(rest, self._start)
        if held > _LONGEST:
            held = 0
        self._held = rest[len(rest) - held :]
        passed.append(rest[: len(rest) - held])
        return b"".join(passed)

    def finish(self) -> bytes:
        """At the end of the stream: the bytes that were held back and are no mark."""
        held, self._held = self._held, b""
        return held

    def _take(self, text: bytes) -> bool:
        try:
            report = parse_report(loads(text)) if len(text) <= _LONGEST else None
        except JSONValueError:
            return False
        if report is not None:
            self.report = report
        return report is not None


def parse_report(document: Any) -> Report | None:
    """The report in a JSON document, or None if it is no report."""
    if not isinstance(document, dict) or document.keys() != Report.__dataclass_fields__.keys():
        return None
    for name, most in _MOST.items():
        value = document[name]
        number = int | float if name == "cpu_ms" else int
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, number) or not 0 <= value <= most
        ):
            return None
    if not all(isinstance(document[name], bool | None) for name in _FLAGS):
        return None
    names = document[_NAMES]
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _NAME.fullmatch(name) for name in names
    ):
        return None
    if document["denied_more"] is None or document["stdout_bytes"] is None:
        return None
    return Report(**document | {_NAMES: tuple(names)})


def _overlap(data: bytes, start: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of `start`."""
    return next(
        (
            size
            for size in range(min(len(start) - 1, len(data)), 0, -1)
            if data.endswith(start[:size])
        ),
        0,
    )
