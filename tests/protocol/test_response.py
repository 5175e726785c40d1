"""How stdout becomes a response: the contract's rules, and everything that breaks them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engine.base import Chunk
from sandbox.protocol.logs import MAX_LINE, LimitExceeded
from sandbox.protocol.response import Parsed, StdioCollector
from tests.protocol.test_json_values import json_values

NOW = "2026-01-24T10:30:00Z"
REPORT = (
    b'\x1e{"exit_code":0,"signal":null,"cpu_ms":1.5,"peak_memory_bytes":4096,'
    b'"oom_kills":0,"pids_denied":0,"exec_errno":null}\n'
)


def collector(**caps: int) -> StdioCollector:
    caps = {"max_output": 1 << 20, "max_logs": 1 << 16} | caps
    return StdioCollector(**caps, now=lambda: NOW)


def parse(stdout: bytes, stderr: bytes = b"", *, cut: int | None = None) -> Parsed:
    """The outcome of these bytes, fed `cut` at a time."""
    collecting = collector()
    for name, data in (("stdout", stdout), ("stderr", stderr)):
        size = cut or max(len(data), 1)
        for start in range(0, len(data), size):
            collecting.feed(Chunk(name, data[start : start + size]))  # type: ignore[arg-type]
    return collecting.finish()


SUCCESS = b"""{"request_id": "req_123", "success": true, "output": {"message": "Hello, World!"},
 "logs": [{"level": "info", "message": "hi", "data": {"a": 1}, "timestamp": "2026-01-24T10:30:00Z"}],
 "duration_ms": 12}
"""
FAILURE = b"""{"success": false,
 "error": {"code": "VALIDATION_ERROR", "message": "Email is required", "details": {"field": "email"}}}
"""


def test_the_contract_s_success_is_read() -> None:
    parsed = parse(SUCCESS)
    assert parsed.well_formed
    assert parsed.error is None
    assert parsed.output == {"message": "Hello, World!"}
    (entry,) = parsed.logs
    assert (entry.level, entry.message, entry.data) == ("info", "hi", {"a": 1})


def test_the_contract_s_failure_is_read() -> None:
    error = parse(FAILURE).error
    assert error.model_dump() == {
        "code": "VALIDATION_ERROR",
        "message": "Email is required",
        "details": {"field": "email"},
    }


@pytest.mark.parametrize(
    "stdout", [SUCCESS, FAILURE, b"log\n" + FAILURE.replace(b"\n", b"") + b"\n", b"nonsense", b""]
)
def test_however_it_is_cut_the_outcome_is_the_same(stdout: bytes) -> None:
    whole = parse(stdout, b"one\r\ntwo\nthree")
    for size in range(1, 40):
        assert parse(stdout, b"one\r\ntwo\nthree", cut=size) == whole


def test_the_last_line_counts_and_the_lines_before_it_are_logs() -> None:
    parsed = parse(b'starting\n{"not": "it"}\n\n{"success": true, "output": 1}\n\n')
    assert parsed.output == 1
    assert [entry.message for entry in parsed.logs] == ["starting", '{"not": "it"}']


def test_of_two_responses_the_last_counts() -> None:
    assert parse(b'{"success": true, "output": 1}\n{"success": true, "output": 2}').output == 2


@pytest.mark.parametrize(
    ("document", "code", "message", "details"),
    [
        ({"error": "boom", "error_code": "E1"}, "E1", "boom", {}),
        ({"error": "boom"}, "FUNCTION_ERROR", "boom", {}),
        ({"error": {"message": "boom"}}, "FUNCTION_ERROR", "boom", {}),
        ({"error": {"code": "E2", "message": "boom", "stack": "…"}}, "E2", "boom", {}),
        ({"error": {"code": 7, "message": 7}}, "FUNCTION_ERROR", "7", {}),
        ({"error": {"code": "E", "message": "m", "details": [1]}}, "E", "m", {"details": [1]}),
        ({}, "FUNCTION_ERROR", "the function reported a failure and did not say why", {}),
    ],
)
def test_errors_in_every_form_that_functions_use(
    document: dict, code: str, message: str, details: dict
) -> None:
    error = parse(json.dumps({"success": False} | document).encode()).error
    assert (error.code, error.message, error.details) == (code, message, details)


def test_an_error_without_success_is_a_failure() -> None:
    parsed = parse(b'{"error": "boom"}')
    assert parsed.well_formed
    assert parsed.error.message == "boom"


@pytest.mark.parametrize(
    ("stdout", "reason"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"hello", "Expecting value"),
        (b"[1, 2]", "no object"),
        (b'{"message": "hi"}', "no `success`"),
        (b'{"success": "yes"}', "neither true nor false"),
        (b'{"success": 1}', "neither true nor false"),
        (b'{"success": true, "output": NaN}', "NaN"),
        (b'{"success": true, "output": "\xff"}', "UTF-8"),
        (b'{"success": true, "output": ' + b"[" * 200 + b"]" * 200 + b"}", "deeper"),
        (b'{"success": true, "output": 1', "delimiter"),
        (b"log\nnot a response", "nor its last line"),
        (b"[" * 1_000_000, "deeper"),
    ],
)
def test_what_is_no_response_is_invalid_with_the_reason(stdout: bytes, reason: str) -> None:
    parsed = parse(stdout, b"a hint\n")
    assert not parsed.well_formed
    assert parsed.error.code == "INVALID_RESPONSE"
    assert reason in parsed.error.details["reason"]
    assert parsed.error.details["stdout"] == stdout[:2048].decode(errors="backslashreplace")
    assert parsed.error.details["stderr"] == "a hint\n"


@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_any_output_passes_through_exactly(output: dict) -> None:
    assert parse(json.dumps({"success": True, "output": output}).encode()).output == output


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_have_an_outcome(stdout: bytes, stderr: bytes, cut: int) -> None:
    parsed = parse(stdout, stderr, cut=cut)
    assert parsed.well_formed or parsed.error.code == "INVALID_RESPONSE"
    assert parsed == parse(stdout, stderr)


def test_log_entries_in_any_form_are_kept() -> None:
    document = {"success": True, "logs": ["text", {"message": 1, "level": "fatal"}, {"x": 1}, None]}
    logs = parse(json.dumps(document).encode()).logs
    assert [(entry.level, entry.message) for entry in logs] == [
        ("info", "text"), ("info", "1"), ("info", "{'x': 1}"), ("info", "None"),
    ]  # fmt: skip


def test_lines_of_stderr_become_logs_as_they_come() -> None:
    collecting = collector()
    assert collecting.feed(Chunk("stderr", b"on")) == []
    assert [entry.message for entry in collecting.feed(Chunk("stderr", b"e\ntwo\nthr"))] == [
        "one", "two",
    ]  # fmt: skip
    assert [entry.message for entry in collecting.finish().logs] == ["one", "two", "thr"]


def test_a_long_line_is_cut_and_bytes_that_are_no_text_are_shown() -> None:
    long, odd = parse(b"", b"x" * 60_000 + b"\n\xff\xfe\n").logs
    assert long.message == "x" * MAX_LINE + " … (cut)"
    assert odd.message == r"\xff\xfe"


def test_the_cap_on_output_is_exact_and_memory_stays_below_it() -> None:
    exact = collector(max_output=10)
    exact.feed(Chunk("stdout", b"x" * 10))
    over = collector(max_output=10)
    with pytest.raises(LimitExceeded) as exceeded:
        over.feed(Chunk("stdout", b"x" * 11))
    assert (exceeded.value.limit, exceeded.value.observed) == ("output", 11)
    for _ in range(100):
        with pytest.raises(LimitExceeded):
            over.feed(Chunk("stdout", b"x" * 1000))
    assert len(over.finish().error.details["stdout"]) == 10


def test_the_cap_on_logs_is_exact() -> None:
    collecting = collector(max_logs=10)
    collecting.feed(Chunk("stderr", b"x" * 10))
    with pytest.raises(LimitExceeded) as exceeded:
        collecting.feed(Chunk("stderr", b"x"))
    assert (exceeded.value.limit, exceeded.value.observed) == ("logs", 11)


def test_init_s_report_is_the_last_line_and_no_log() -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", b"hello\n" + REPORT))
    assert [entry.message for entry in collecting.finish().logs] == ["hello"]
    assert (collecting.report.exit_code, collecting.report.peak_memory_bytes) == (0, 4096)


def test_a_report_behind_text_without_a_line_end_is_found() -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", b"no newline" + REPORT))
    assert [entry.message for entry in collecting.finish().logs] == ["no newline"]
    assert collecting.report is not None


def test_a_report_that_the_function_forges_is_a_log() -> None:
    forged = REPORT.replace(b"4096", b"1")
    collecting = collector()
    collecting.feed(Chunk("stderr", forged + b"more\n" + REPORT))
    assert len(collecting.finish().logs) == 2
    assert collecting.report.peak_memory_bytes == 4096


@pytest.mark.parametrize(
    "line", [b"\x1e{}\n", b"\x1enonsense\n", b'\x1e{"exit_code": true}\n', b"\x1e"]
)
def test_what_only_looks_like_a_report_is_a_log(line: bytes) -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", line))
    assert len(collecting.finish().logs) == 1
    assert collecting.report is None


def test_a_response_that_has_come_is_known_before_the_end() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", b'{"success": true'))
    assert not collecting.answered
    collecting.feed(Chunk("stdout", b"}\n"))
    assert collecting.answered
    assert not collecting.complete  # more may come
