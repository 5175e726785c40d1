"""What happened to a container becomes the code of the contract that names the cause."""

from __future__ import annotations

import errno

import pytest

from sandbox.models import FunctionError
from sandbox.outcome import Death, death_error, death_from, limits_touched, timeout_error
from sandbox.policy import Policy
from sandbox.protocol.report import Report

POLICY = Policy(timeout=30, memory=128 << 20, cpu=1, pids=64, tmp=1, open_files=1, file_size=1)
INVALID = FunctionError(
    code="INVALID_RESPONSE", message="no response", details={"stdout": "x", "stderr": "y"}
)


def report(**seen: object) -> Report:
    return Report(**seen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("death", "phase", "code", "details"),
    [
        (Death(exit_code=3), "run", "FUNCTION_CRASHED", {"exit_code": 3, "signal": None}),
        (Death(signal=11), "run", "FUNCTION_CRASHED", {"exit_code": None, "signal": "SIGSEGV"}),
        (Death(signal=9), "run", "FUNCTION_CRASHED", {"exit_code": None, "signal": "SIGKILL"}),
        (Death(exit_code=0), "run", "INVALID_RESPONSE", {}),
        (Death(exit_code=1), "boot", "INIT_FAILED", {"exit_code": 1}),
        (
            Death(signal=9, out_of_memory=True, peak_memory=5),
            "run",
            "OUT_OF_MEMORY",
            {"limit": 128 << 20, "observed": 5, "setting": "memory"},
        ),
        (Death(exec_errno=errno.EACCES), "run", "INIT_FAILED", {"errno": "EACCES"}),
    ],
)
def test_each_death_has_its_code(death: Death, phase: str, code: str, details: dict) -> None:
    error = death_error(death, POLICY, phase=phase, invalid=INVALID)  # type: ignore[arg-type]
    assert error.code == code
    assert details.items() <= error.details.items()


def test_a_killed_function_is_out_of_memory_only_if_the_kernel_says_so() -> None:
    assert death_from(report(signal=9, oom_kills=0)).out_of_memory is False
    assert death_from(report(signal=9, oom_kills=1)).out_of_memory is True


def test_without_a_report_the_engine_s_exit_code_tells_the_signal() -> None:
    assert death_from(None, exit_code=139) == Death(signal=11)
    assert death_from(None, exit_code=1) == Death(exit_code=1)


def test_a_timeout_names_limit_observed_and_setting() -> None:
    error = timeout_error(0.5, observed=0.51, answered=False)
    assert error.code == "TIMEOUT"
    assert error.details == {"limit": 0.5, "observed": 0.51, "setting": "timeout"}
    assert "500ms" in error.message


def test_limits_that_were_touched_without_ending_the_function_are_listed() -> None:
    hits = limits_touched(report(oom_kills=1, pids_denied=4, peak_memory_bytes=7), POLICY, None)
    assert [(hit.setting, hit.limit, hit.observed) for hit in hits] == [
        ("memory", 128 << 20, 7),
        ("pids", 64, 64),
    ]
