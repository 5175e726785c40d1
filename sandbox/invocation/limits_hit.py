"""Which limits an invocation touched, and which one a crash came from. Pure.

Most have something that counts them: the kernel, or init's look at the file systems. For some
limits the kernel keeps no count: a process that may open no more files gets an errno, and only its
own words tell. Every language writes the same few: the errno's name, or the text that the C
library has for it. They are a hint, not a measurement, and no more is made of them.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sandbox.errors import Code
from sandbox.models import LimitHit
from sandbox.protocol.report import Report
from sandbox.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sandbox.models import FunctionError, LogEntry, NetworkStats
    from sandbox.policy.limits import Policy

# These codes name the limit that ended the function; of a crash, a limit is the likely cause.
_CODES_OF_LIMITS: Final = (
    Code.TIMEOUT,
    Code.OUT_OF_MEMORY,
    Code.OUTPUT_TOO_LARGE,
    Code.INIT_FAILED,
)

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

# What shows that a limit was touched: two of them may have the same setting.
Sign = Symptom | Literal["shm", "kills"]

# How a crash reads that came from it, the likeliest first.
_ENDED: Final[Mapping[Sign, str]] = {
    "file_size": "a file reached the largest size, {}",
    "open_files": "it may have {} files open, and wanted more",
    "heap": "its runtime ran out of memory; the limit is {}",
    "space": "/tmp was full; its size is {}",  # noqa: S108
    "shm": "/dev/shm was full; its size is {}",  # noqa: S108
    "processes": "it may have {} processes and threads, and wanted more",
    "network": "it wanted a place of the network that its manifest does not name",
}
_NO_REPORT: Final = Report()


@dataclass(frozen=True, kw_only=True)
class EndingLimit:
    """The limit that a crash came from; `text` is for people."""

    hit: LimitHit
    text: str


def limits_touched(
    report: Report | None,
    policy: Policy,
    error: FunctionError | None,
    logs: Sequence[LogEntry] = (),
    network: NetworkStats | None = None,
) -> tuple[LimitHit, ...]:
    """Limits that were touched, but for the one whose code is the error's.

    From init's report where something counts them; `observed` is None for what only the failing
    function's own words tell, in its error and at the end of `logs`. Of the network, the limit is
    how many destinations are allowed, and `observed` how many others were tried.
    """
    told = symptoms(error, logs)
    denied = len(network.denied) if network is not None else 0
    hits = _touched(report or _NO_REPORT, policy, told, denied=denied)
    named = None
    if error is not None and error.code in _CODES_OF_LIMITS:
        named = error.details.get("setting")
    return tuple(hit for hit in hits.values() if hit.setting != named)


def _touched(
    report: Report, policy: Policy, told: frozenset[Symptom], *, denied: int = 0
) -> dict[Sign, LimitHit]:
    """The limits that were touched, each by what shows it."""
    hits: dict[Sign, LimitHit] = {}
    memory = LimitHit(setting="memory", limit=policy.memory, observed=report.peak_memory_bytes)
    if report.oom_kills:
        hits["kills"] = memory
    elif "heap" in told:
        # The runtimes size their heap by the memory limit, and give up before the kernel does.
        hits["heap"] = memory
    if report.pids_denied:
        hits["processes"] = LimitHit(setting="pids", limit=policy.pids, observed=policy.pids)
    if report.tmp_full:
        hits["space"] = LimitHit(setting="tmp", limit=policy.tmp, observed=report.tmp_bytes)
    if report.shm_full:
        hits["shm"] = LimitHit(setting="tmp", limit=policy.shm, observed=policy.shm)
    if "space" in told and not (report.tmp_full or report.shm_full):
        hits["space"] = LimitHit(setting="tmp", limit=policy.tmp)
    largest = report.largest_file or 0
    if largest >= policy.file_size:
        hits["file_size"] = LimitHit(
            setting="limits.file_size", limit=policy.file_size, observed=largest
        )
    elif "file_size" in told or report.signal == signal.SIGXFSZ:
        hits["file_size"] = LimitHit(setting="limits.file_size", limit=policy.file_size)
    if "open_files" in told:
        hits["open_files"] = LimitHit(setting="limits.open_files", limit=policy.open_files)
    if denied or "network" in told:
        hits["network"] = LimitHit(
            setting="network",
            limit=len(policy.network.destinations),
            observed=denied or None,
        )
    return hits


def ending_limit(report: Report, policy: Policy, told: frozenset[Symptom]) -> EndingLimit | None:
    """The limit that a crash came from, if anything shows it; `told` is what the function says."""
    hits = _touched(report, policy, told)
    # A full file system is evidence by itself. The others need the function's word, or the signal
    # that has no other cause: it may live with them, and end by something else.
    certain: set[Sign] = {"space", "shm", *told}
    if report.signal == signal.SIGXFSZ:
        certain = {"file_size"}
    for sign, words in _ENDED.items():
        hit = hits.get(sign)
        if hit is not None and sign in certain:
            return EndingLimit(hit=hit, text=words.format(_shown(hit)))
    return None


def _shown(hit: LimitHit) -> str:
    in_bytes = hit.setting in ("memory", "tmp", "limits.file_size")
    return format_size(round(hit.limit)) if in_bytes else f"{hit.limit:g}"


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
