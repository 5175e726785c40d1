"""What happened to a container becomes the code of the contract that names the cause."""

from __future__ import annotations

import errno
import signal

import pytest

from sandbox.config.settings import FixedLimits
from sandbox.invocation.limits_hit import limits_touched
from sandbox.invocation.outcome import (
    Death,
    Spent,
    boot_timeout_error,
    death_error,
    death_from,
    flood_error,
    timeout_error,
)
from sandbox.models import FunctionError, LogEntry, NetworkDenied, NetworkStats
from sandbox.policy.limits import Policy
from sandbox.protocol.report import Report

MIB = 1 << 20
POLICY = Policy(
    timeout=30, memory=128 * MIB, cpu=1, pids=64, tmp=16 * MIB, open_files=256, file_size=8 * MIB
)
INVALID = FunctionError(
    code="INVALID_RESPONSE", message="no response", details={"stdout": "x", "stderr": "y"}
)
FAILURE = FunctionError(code="FUNCTION_ERROR", message="it did not work")


def report(**seen: object) -> Report:
    return Report(**seen)  # type: ignore[arg-type]


def ended(**seen: object) -> Death:
    return death_from(report(**seen))


def said(text: str) -> tuple[LogEntry, ...]:
    return (LogEntry(message="before"), LogEntry(message=text))


def error_of(death: Death, *, phase: str = "run", text: str = "") -> FunctionError:
    error = death_error(
        death,
        POLICY,
        phase=phase,  # type: ignore[arg-type]
        invalid=INVALID,
        logs=said(text),
    )
    assert error is not None
    return error


def hits(*arguments: object, **options: object) -> list[tuple[str, float, float | None]]:
    touched = limits_touched(*arguments, **options)  # type: ignore[arg-type]
    return [(hit.setting, hit.limit, hit.observed) for hit in touched]


@pytest.mark.parametrize(
    ("death", "phase", "code", "details"),
    [
        (ended(exit_code=3), "run", "FUNCTION_CRASHED", {"exit_code": 3, "signal": None}),
        (ended(signal=11), "run", "FUNCTION_CRASHED", {"exit_code": None, "signal": "SIGSEGV"}),
        (ended(signal=9), "run", "FUNCTION_CRASHED", {"exit_code": None, "signal": "SIGKILL"}),
        (ended(signal=40), "run", "FUNCTION_CRASHED", {"signal": "SIG40"}),
        (ended(exit_code=0), "run", "INVALID_RESPONSE", {}),
        (ended(exit_code=0), "boot", "INIT_FAILED", {"exit_code": 0}),
        (ended(exit_code=1), "boot", "INIT_FAILED", {"exit_code": 1}),
        (
            ended(signal=9, oom_kills=1, peak_memory_bytes=5),
            "run",
            "OUT_OF_MEMORY",
            {"limit": 128 * MIB, "observed": 5, "setting": "memory", "signal": "SIGKILL"},
        ),
        (
            ended(signal=9, oom_kills=1, peak_memory_bytes=5),
            "boot",
            "INIT_FAILED",
            {"limit": 128 * MIB, "observed": 5, "setting": "memory"},
        ),
        (ended(exec_errno=errno.EACCES), "run", "INIT_FAILED", {"errno": "EACCES"}),
    ],
)
def test_each_death_has_its_code(death: Death, phase: str, code: str, details: dict) -> None:
    error = error_of(death, phase=phase)
    assert error.code == code
    assert details.items() <= error.details.items()


def test_a_killed_function_is_out_of_memory_only_if_the_kernel_says_so() -> None:
    assert death_from(report(signal=9, oom_kills=0)).out_of_memory is False
    assert death_from(report(signal=9, oom_kills=None)).out_of_memory is False
    assert death_from(report(signal=9, oom_kills=1)).out_of_memory is True
    assert death_from(None, exit_code=137).out_of_memory is False
    assert death_from(None, exit_code=137, oom_killed=True).out_of_memory is True


def test_without_a_report_the_engine_s_exit_code_tells_the_signal() -> None:
    assert death_from(None, exit_code=139) == Death(signal=11)
    assert death_from(None, exit_code=1) == Death(exit_code=1)


def test_when_only_a_child_was_killed_the_message_says_so() -> None:
    error = error_of(ended(exit_code=1, oom_kills=1, peak_memory_bytes=7))
    assert error.code == "OUT_OF_MEMORY"
    assert "a process of it was killed" in error.message
    assert "exited with code 1" in error.message
    assert error.details["exit_code"] == 1
    assert error.details["stderr"] == "y"


def test_where_init_was_killed_too_the_memory_seen_is_its_limit() -> None:
    error = error_of(death_from(None, exit_code=137, oom_killed=True))
    assert error.code == "OUT_OF_MEMORY"
    assert error.details["observed"] == error.details["limit"] == 128 * MIB


@pytest.mark.parametrize(
    ("exit_code", "suspect"), [(137, "memory limit of 128mb"), (2, "limit of processes")]
)
def test_an_end_that_nobody_reported_is_a_crash_that_names_what_it_may_be(
    exit_code: int, suspect: str
) -> None:
    """Under gVisor that happens to kills by memory of which the engine does not hear in time."""
    error = error_of(death_from(None, exit_code=exit_code))
    assert error.code == "FUNCTION_CRASHED"
    assert "perhaps" in error.message
    assert suspect in error.message
    assert "setting" not in error.details


@pytest.mark.parametrize(
    ("seen", "text", "limit", "words"),
    [
        ({"exit_code": 1, "tmp_full": True, "tmp_bytes": 16 * MIB}, "", ("tmp", 16 * MIB, 16 * MIB), "/tmp was full"),
        ({"exit_code": 1, "shm_full": True}, "", ("tmp", 16 * MIB, 16 * MIB), "/dev/shm was full"),
        ({"exit_code": 1}, "Error: ENOSPC: write", ("tmp", 16 * MIB, None), "/tmp was full"),
        (
            {"signal": int(signal.SIGXFSZ), "largest_file": 8 * MIB},
            "",
            ("limits.file_size", 8 * MIB, 8 * MIB),
            "largest size, 8mb",
        ),
        ({"signal": int(signal.SIGXFSZ)}, "", ("limits.file_size", 8 * MIB, None), "largest size"),
        ({"exit_code": 1, "largest_file": 8 * MIB}, "OSError: [Errno 27] File too large", ("limits.file_size", 8 * MIB, 8 * MIB), "largest size"),
        ({"exit_code": 1}, "OSError: [Errno 24] Too many open files: '/dev/null'", ("limits.open_files", 256, None), "256 files open"),
        ({"exit_code": 2}, "panic: open /tmp/x: too many open files", ("limits.open_files", 256, None), "256 files open"),
        ({"exit_code": 1, "pids_denied": 3}, "BlockingIOError: [Errno 11] Resource temporarily unavailable", ("pids", 64, 64), "64 processes"),
        ({"signal": 6, "peak_memory_bytes": 9}, "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", ("memory", 128 * MIB, 9), "128mb"),
        ({"exit_code": 1}, "OSError: [Errno 101] Network is unreachable", ("network", 0, None), "network"),
    ],
)  # fmt: skip
def test_a_crash_names_the_limit_that_it_came_from(
    seen: dict, text: str, limit: tuple[str, int, int | None], words: str
) -> None:
    error = error_of(ended(**seen), text=text)
    assert error.code == "FUNCTION_CRASHED"
    assert words in error.message
    assert (error.details["setting"], error.details["limit"], error.details["observed"]) == limit
    # The crash may have come from something else after all, so that the list has it too.
    assert limit in hits(report(**seen), POLICY, error, said(text))


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ({"exit_code": 1}, "ValueError: 3"),
        # It lived with the refusal, and ended by something else.
        ({"exit_code": 1, "pids_denied": 3}, "ValueError: 3"),
        # A read that found nothing; no process was refused.
        ({"exit_code": 1, "pids_denied": 0}, "EAGAIN"),
        # The signal has one cause, whatever the function says.
        ({"signal": 11, "pids_denied": 0}, "EMFILED"),
    ],
)
def test_a_crash_that_no_limit_explains_names_none(seen: dict, text: str) -> None:
    assert "setting" not in error_of(ended(**seen), text=text).details


def test_a_timeout_names_limit_observed_and_setting() -> None:
    error = timeout_error(0.5, observed=0.51, answered=False)
    assert error.code == "TIMEOUT"
    assert error.details == {"limit": 0.5, "observed": 0.51, "setting": "timeout"}
    assert "500ms" in error.message


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        (Spent(queue=2, boot=1, run=27), "its time limit of 30s and was killed"),
        (Spent(queue=26, boot=1, run=3), "for 26s of that it waited for a place"),
        (Spent(queue=1, boot=29, run=0), "29s of that was its boot"),
    ],
)
def test_a_timeout_tells_a_slow_function_from_a_slow_boot_and_a_long_queue(
    spent: Spent, words: str
) -> None:
    error = timeout_error(30, observed=30.001, answered=False, spent=spent)
    assert error.message.endswith(words)
    assert error.details["queue_ms"] == spent.queue * 1000
    assert error.details["boot_ms"] == spent.boot * 1000
    assert error.details["run_ms"] == spent.run * 1000


def test_a_boot_that_takes_too_long_names_its_limit() -> None:
    error = boot_timeout_error(10, observed=10.2, spent=Spent(boot=10.2))
    assert error.code == "INIT_FAILED"
    assert error.details["setting"] == "limits.boot"
    assert error.details["boot_ms"] == 10200


@pytest.mark.parametrize("stream", ["output", "logs"])
def test_a_flood_names_its_cap(stream: str) -> None:
    error = flood_error(stream, FixedLimits(), observed=9 << 20)
    assert error.code == "OUTPUT_TOO_LARGE"
    assert error.details["setting"] == f"limits.{stream}"
    assert error.details["observed"] == 9 << 20


def test_limits_that_were_touched_without_ending_the_function_are_listed() -> None:
    seen = report(oom_kills=1, pids_denied=4, peak_memory_bytes=7, tmp_full=True, tmp_bytes=8)
    expected = [("memory", 128 * MIB, 7), ("pids", 64, 64), ("tmp", 16 * MIB, 8)]
    assert hits(seen, POLICY, None) == expected
    assert hits(seen, POLICY, FAILURE) == expected
    assert hits(seen, POLICY, INVALID) == expected


def test_the_limit_that_ended_the_function_is_not_listed_again() -> None:
    seen = report(signal=9, oom_kills=1, peak_memory_bytes=7, pids_denied=1)
    error = error_of(death_from(seen))
    assert hits(seen, POLICY, error) == [("pids", 64, 64)]


def test_destinations_that_were_refused_are_counted() -> None:
    network = NetworkStats(denied=(NetworkDenied(destination="a.example:443", reason="no"),) * 2)
    assert hits(None, POLICY, None, network=network) == [("network", 0, 2)]


def test_what_a_function_says_counts_only_when_it_fails() -> None:
    text = said("retrying: too many open files")
    assert hits(None, POLICY, None, text) == []
    assert hits(None, POLICY, FAILURE, text) == [("limits.open_files", 256, None)]


def test_an_error_s_own_code_is_one_of_its_words() -> None:
    """Node's errors have the errno's name as their code, which becomes the response's."""
    error = FunctionError(code="EMFILE", message="open '/tmp/x'")
    assert hits(None, POLICY, error) == [("limits.open_files", 256, None)]
    error = FunctionError(code="FUNCTION_ERROR", message="x", details={"code": "ENOSPC"})
    assert hits(None, POLICY, error) == [("tmp", 16 * MIB, None)]


def test_without_a_report_and_without_words_nothing_is_claimed() -> None:
    assert hits(None, POLICY, FAILURE) == []
