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
from sandbox.models import FunctionError, LimitHit
from sandbox.units import format_duration, format_size

if TYPE_CHECKING:
    from sandbox.policy import Policy
    from sandbox.protocol.report import Report
    from sandbox.settings import FixedLimits

Phase = Literal["boot", "run"]


@dataclass(frozen=True, kw_only=True)
class Death:
    """How the container's function ended when nothing of ours killed it.

    From init's report where there is one, else from what the engine saw.
    """

    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    exec_errno: int | None = None
    peak_memory: int | None = None


def death_from(
    report: Report | None, *, exit_code: int | None = None, oom_killed: bool = False
) -> Death:
    """What is known of a death: init's report, or the engine's exit code (128 + signal)."""
    if report is not None:
        return Death(
            exit_code=report.exit_code,
            signal=report.signal,
            out_of_memory=bool(report.oom_kills) or oom_killed,
            exec_errno=report.exec_errno,
            peak_memory=report.peak_memory_bytes,
        )
    if exit_code is not None and exit_code > 128:
        return Death(signal=exit_code - 128, out_of_memory=oom_killed)
    return Death(exit_code=exit_code, out_of_memory=oom_killed)


def timeout_error(policy_timeout: float, *, observed: float, answered: bool) -> FunctionError:
    """TIMEOUT. `answered`: a whole response had come, but the function did not end."""
    afterwards = (
        "; it had written a response, but did not exit: a stdio function ends when it has answered"
        if answered
        else ""
    )
    return FunctionError(
        code=Code.TIMEOUT,
        message=f"took longer than its time limit of {format_duration(policy_timeout)} "
        f"and was killed{afterwards}",
        details=_limit("timeout", policy_timeout, round(observed, 3)),
    )


def boot_timeout_error(boot: float, *, observed: float) -> FunctionError:
    """INIT_FAILED: the handler was not imported in time."""
    return FunctionError(
        code=Code.INIT_FAILED,
        message=f"was not ready for a request within {format_duration(boot)} and was killed; "
        "do less while the module is imported",
        details=_limit("limits.boot", boot, round(observed, 3)),
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


def memory_error(policy: Policy, death: Death) -> FunctionError:
    """OUT_OF_MEMORY."""
    return FunctionError(
        code=Code.OUT_OF_MEMORY,
        message=f"needed more than its memory limit of {format_size(policy.memory)} "
        "and was killed; /tmp counts too",
        details=_limit("memory", policy.memory, death.peak_memory),
    )


def death_error(
    death: Death, policy: Policy, *, phase: Phase, invalid: FunctionError | None
) -> FunctionError | None:
    """The error for a function that ended by itself without a well-formed response.

    `invalid` is the INVALID_RESPONSE of the codec, with what the function wrote.
    """
    if death.exec_errno is not None:
        return _not_executable(death.exec_errno)
    if death.out_of_memory:
        return memory_error(policy, death)
    cause = _describe_end(death)
    written = invalid.details if invalid is not None else {}
    seen = {key: written[key] for key in ("stdout", "stderr") if key in written}
    how: dict[str, Any] = {"exit_code": death.exit_code, "signal": _signal_name(death.signal)}
    if phase == "boot":
        return FunctionError(
            code=Code.INIT_FAILED,
            message=f"{cause} before it could take a request",
            details=how | seen,
        )
    if death.exit_code == 0:
        return invalid
    return FunctionError(
        code=Code.FUNCTION_CRASHED, message=f"{cause} without a response", details=how | seen
    )


def limits_touched(
    report: Report | None, policy: Policy, error: FunctionError | None
) -> tuple[LimitHit, ...]:
    """Limits that were touched without ending the function, from init's report."""
    if report is None:
        return ()
    hits = []
    if report.oom_kills and (error is None or error.code != Code.OUT_OF_MEMORY):
        observed = report.peak_memory_bytes
        hits.append(LimitHit(setting="memory", limit=policy.memory, observed=observed))
    if report.pids_denied:
        hits.append(LimitHit(setting="pids", limit=policy.pids, observed=policy.pids))
    return tuple(hits)


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


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _limit(setting: str, limit: float, observed: float | None) -> dict[str, float | str | None]:
    return {"limit": limit, "observed": observed, "setting": setting}
