"""How an invocation ended, as the error that names its cause. Pure.

The one place where "what happened to the container" becomes a code of the contract.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sandbox.errors import Code
from sandbox.invocation.limits_hit import ending_limit, symptoms
from sandbox.models import FunctionError
from sandbox.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.config.settings import FixedLimits
    from sandbox.models import LimitHit, LogEntry
    from sandbox.policy.limits import Policy
    from sandbox.protocol.report import Report

Phase = Literal["boot", "run"]


@dataclass(frozen=True, kw_only=True)
class Death:
    """How the container's function ended when nothing of ours killed it.

    From init's `report` where there is one, else from what the engine saw. Without a report, init
    was killed too, and with it the whole container.
    """

    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    exec_errno: int | None = None
    report: Report | None = None


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Where the time of an invocation went, in seconds: waiting for a place, booting, running."""

    queue: float = 0.0
    boot: float = 0.0
    run: float = 0.0


def death_from(
    report: Report | None, *, exit_code: int | None = None, oom_killed: bool = False
) -> Death:
    """What is known of a death: init's report, or the engine's exit code (128 + signal).

    Out of memory is what the kernel counted or the engine was told, and nothing else: any process
    can end by SIGKILL.
    """
    if report is not None:
        return Death(
            exit_code=report.exit_code,
            signal=report.signal,
            out_of_memory=bool(report.oom_kills) or oom_killed,
            exec_errno=report.exec_errno,
            report=report,
        )
    if exit_code is not None and exit_code > 128:
        return Death(signal=exit_code - 128, out_of_memory=oom_killed)
    return Death(exit_code=exit_code, out_of_memory=oom_killed)


def timeout_error(
    time_limit: float, *, observed: float, answered: bool, spent: Spent | None = None
) -> FunctionError:
    """TIMEOUT. `answered`: a whole response had come, but the function did not end.

    `spent` tells a slow function from a slow boot and from a long queue.
    """
    return FunctionError(
        code=Code.TIMEOUT,
        message=f"took longer than its time limit of {format_duration(time_limit)} "
        f"and was killed{_why_slow(spent, answered=answered)}",
        details=_limit("timeout", time_limit, round(observed, 3)) | _split(spent),
    )


def boot_timeout_error(
    boot: float, *, observed: float, spent: Spent | None = None
) -> FunctionError:
    """INIT_FAILED: the handler was not imported in time."""
    return FunctionError(
        code=Code.INIT_FAILED,
        message=f"was not ready for a request within {format_duration(boot)} and was killed; "
        "do less while the module is imported",
        details=_limit("limits.boot", boot, round(observed, 3)) | _split(spent),
    )


def flood_error(stream: str, limits: FixedLimits, *, observed: int) -> FunctionError:
    """OUTPUT_TOO_LARGE: stdout (`output`) or the logs (`logs`) went over the cap."""
    cap = limits.output if stream == "output" else limits.logs
    what = "its output" if stream == "output" else "its logs"
    return FunctionError(
        code=Code.OUTPUT_TOO_LARGE,
        message=f"{what} went over the cap of {format_size(cap)}; it was killed",
        details=_limit(f"limits.{stream}", cap, observed),
    )


def death_error(
    death: Death,
    policy: Policy,
    *,
    phase: Phase,
    invalid: FunctionError | None,
    logs: Sequence[LogEntry] = (),
) -> FunctionError | None:
    """The error for a function that ended by itself without a well-formed response.

    `invalid` is the INVALID_RESPONSE of the codec, with what the function wrote; `logs` is all
    that it logged, for what it says of its end.
    """
    if death.exec_errno is not None:
        return _not_executable(death.exec_errno)
    written = invalid.details if invalid is not None else {}
    seen = {key: written[key] for key in ("stdout", "stderr") if key in written}
    how: dict[str, Any] = {"exit_code": death.exit_code, "signal": _signal_name(death.signal)}
    when = "before it could take a request" if phase == "boot" else "without a response"
    if death.out_of_memory:
        return FunctionError(
            code=Code.INIT_FAILED if phase == "boot" else Code.OUT_OF_MEMORY,
            message=f"{_out_of_memory(death, policy)} {when}; /tmp counts too",
            details=_limit("memory", policy.memory, _peak(death, policy)) | how | seen,
        )
    if death.report is None:
        code = Code.INIT_FAILED if phase == "boot" else Code.FUNCTION_CRASHED
        message = f"{_ended_with_its_container(death, policy)} {when}"
        return FunctionError(code=code, message=message, details=how | seen)
    if death.exit_code == 0 and phase == "run":
        return invalid
    ended_by = ending_limit(death.report, policy, symptoms(invalid, logs))
    cause, details = ("", {}) if ended_by is None else (f"; {ended_by.text}", _of(ended_by.hit))
    return FunctionError(
        code=Code.INIT_FAILED if phase == "boot" else Code.FUNCTION_CRASHED,
        message=f"{_describe_end(death)} {when}{cause}",
        details=how | details | seen,
    )


def _out_of_memory(death: Death, policy: Policy) -> str:
    limit = format_size(policy.memory)
    if death.report is not None and death.signal != signal.SIGKILL:
        end = _describe_end(death)
        return f"a process of it was killed by its memory limit of {limit}, and it {end}"
    return f"needed more than its memory limit of {limit} and was killed"


def _peak(death: Death, policy: Policy) -> int:
    """What it used. Where nobody could ask, the limit: the kernel kills when it is reached."""
    peak = death.report.peak_memory_bytes if death.report is not None else None
    return policy.memory if peak is None else peak


def _ended_with_its_container(death: Death, policy: Policy) -> str:
    """How a container ended that left no report, and what that may come from."""
    how = _describe_end(death)
    if death.signal == signal.SIGKILL:
        limit = format_size(policy.memory)
        may = f"by something outside; under gVisor by itself, or by its memory limit of {limit}"
    else:
        may = "under gVisor by its limit of processes and threads"
    return f"{how} together with its container (perhaps {may})"


def _not_executable(code: int) -> FunctionError:
    reasons = {
        errno.ENOENT: "the command, or the loader it names, does not exist in the image",
        errno.EACCES: "the file is not executable; set its executable bit",
        errno.ENOEXEC: "the file is not a program for this machine",
    }
    reason = reasons.get(code, os.strerror(code))
    return FunctionError(
        code=Code.INIT_FAILED,
        message=f"could not be started: {reason}",
        details={"errno": errno.errorcode.get(code, str(code))},
    )


def _describe_end(death: Death) -> str:
    if death.signal is not None:
        return f"was ended by {_signal_name(death.signal)}"
    if death.exit_code is not None:
        return f"exited with code {death.exit_code}"
    return "ended"


def _why_slow(spent: Spent | None, *, answered: bool) -> str:
    if answered:
        return (
            "; it had written a response, but did not exit: "
            "a stdio function ends when it has answered"
        )
    if spent is None:
        return ""
    most = max(spent.queue, spent.boot, spent.run)
    if most == spent.run:
        return ""
    if most == spent.queue:
        return f"; for {format_duration(round(spent.queue, 3))} of that it waited for a place"
    return f"; {format_duration(round(spent.boot, 3))} of that was its boot"


def _split(spent: Spent | None) -> dict[str, float | str | None]:
    if spent is None:
        return {}
    return {
        "queue_ms": round(spent.queue * 1000, 3),
        "boot_ms": round(spent.boot * 1000, 3),
        "run_ms": round(spent.run * 1000, 3),
    }


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _of(hit: LimitHit) -> dict[str, float | str | None]:
    return _limit(hit.setting, hit.limit, hit.observed)


def _limit(setting: str, limit: float, observed: float | None) -> dict[str, float | str | None]:
    return {"limit": limit, "observed": observed, "setting": setting}
