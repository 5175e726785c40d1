"""How stdout becomes a response: the contract's rules, and everything that breaks them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engine.base import Chunk
from sandbox.models import FunctionResponse, dump_json
from sandbox.protocol.logs import MAX_LINE, MIN_ENTRY, LimitExceeded, Line, LineSplitter
from sandbox.protocol.report import Marks
from sandbox.protocol.response import Parsed, StdioCollector
from tests.protocol.test_json_values import json_values

NOW = "2026-01-24T10:30:00Z"
REST_CUT = "… (the rest of the logs was cut)"
NONCE = "c0ffee"
REPORT = (
    b'\x1ec0ffee{"exit_code":0,"signal":null,"exec_errno":null,"cpu_ms":1.5,'
    b'"peak_memory_bytes":4096,"oom_kills":0,"pids_denied":0,"tmp_bytes":0,"tmp_full":false,'
    b'"shm_full":null,"largest_file":null,"denied":[],"denied_more":0,"stdout_bytes":0}\n'
)


def report(**fields: object) -> bytes:
    """Init's line with these fields; without an exit code, the function still runs."""
    document = json.loads(REPORT.removeprefix(b"\x1ec0ffee")) | fields
    return b"\x1ec0ffee" + json.dumps(document).encode() + b"\n"


def collector(**caps: int) -> StdioCollector:
    caps = {"max_output": 1 << 20, "max_logs": 1 << 16} | caps
    return StdioCollector(**caps, now=lambda: NOW, marks=Marks(NONCE))


def parse(stdout: bytes, stderr: bytes = b"", *, cut: int | None = None) -> Parsed:
    """The outcome of these bytes, fed `cut` at a time."""
    collecting = collector()
    for name, data in (("stdout", stdout), ("stderr", stderr)):
        size = cut or max(len(data), 1)
        for start in range(0, len(data), size):
            collecting.feed(Chunk(name, data[start : start + size]))  # type: ignore[arg-type]
    return collecting.finish()


SUCCESS = b"""{"request_id": "req_123", "success": true, "output": {"message": "Hello, World!"},
 "logs": [{"level": "info", "message": "hi", "data": {"a": 1},
           "timestamp": "2026-01-24T10:30:00Z"}],
 "duration_ms": 12}
"""
FAILURE = b"""{"success": false,
 "error": {"code": "VALIDATION_ERROR", "message": "Email is required",
           "details": {"field": "email"}}}
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
    assert error.to_dict() == {
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


def test_a_byte_order_mark_and_zero_bytes_around_a_response() -> None:
    assert parse(b'\xef\xbb\xbf{"success": true, "output": 1}').output == 1
    assert not parse(b'{"success": true, "output": 1}\0').well_formed


def test_lines_that_end_as_on_windows_are_lines() -> None:
    parsed = parse(b'one\r\n{"success": true, "output": 1}\r\n', b"two\r\n")
    assert parsed.output == 1
    assert [entry.message for entry in parsed.logs] == ["two", "one"]


def test_bytes_before_the_last_line_that_are_no_text_do_not_spoil_it() -> None:
    parsed = parse(b'\xff\n{"success": true, "output": 1}')
    assert (parsed.output, parsed.logs[0].message) == (1, r"\xff")


def test_numbers_and_texts_that_readers_differ_on_pass_through_exactly() -> None:
    text = '{"a":123456789012345678901234567890,"b":-0.0,"c":1e-300,"d":"\\ud800\\u0000"}'
    assert dump_json(parse(f'{{"success": true, "output": {text}}}'.encode()).output) == (
        text.replace(":", ": ").replace(",", ", ")
    )


def test_lone_surrogates_anywhere_leave_a_response_that_can_be_written() -> None:
    odd = "\ud800"
    error = {"code": odd, "message": odd, "details": {odd: odd}}
    logs = [odd, {"message": odd, "data": {odd: odd}, "timestamp": odd}]
    parsed = parse(json.dumps({"success": False, "error": error, "logs": logs}).encode())
    response = FunctionResponse(request_id="r", success=False, error=parsed.error, logs=parsed.logs)
    assert json.loads(response.to_json())["error"] == error


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
        ({"error": ["boom"]}, "FUNCTION_ERROR", '["boom"]', {}),
        ({"error": {"message": ["boom"]}, "error_code": "E3"}, "E3", '["boom"]', {}),
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


@given(st.dictionaries(st.text(st.characters()), json_values, max_size=3))
def test_any_output_passes_through_exactly(output: dict) -> None:
    assert parse(json.dumps({"success": True, "output": output}).encode()).output == output


pieces = st.binary(max_size=40) | st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"\x1e",
        b"\xef\xbb\xbf",
        b"\xff",
        b'{"success": true}',
        b'{"error":',
        b"}",
        b"[",
    ]
)
streams = st.lists(pieces, max_size=12).map(b"".join)


@given(streams, streams | streams.map(lambda data: data + REPORT), st.integers(1, 50))
def test_any_bytes_have_an_outcome(stdout: bytes, stderr: bytes, cut: int) -> None:
    parsed = parse(stdout, stderr, cut=cut)
    assert parsed.well_formed or parsed.error.code == "INVALID_RESPONSE"
    assert parsed == parse(stdout, stderr)


def test_log_entries_in_any_form_are_kept() -> None:
    document = {"success": True, "logs": ["text", {"message": 1, "level": "fatal"}, {"x": 1}, None]}
    logs = parse(json.dumps(document).encode()).logs
    assert [(entry.level, entry.message) for entry in logs] == [
        ("info", "text"), ("info", "1"), ("info", '{"x": 1}'), ("info", "null"),
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


def test_a_cut_line_ends_with_a_whole_character() -> None:
    (entry,) = parse(b"", b"x" + "é".encode() * MAX_LINE).logs
    assert entry.message == "x" + "é" * (MAX_LINE // 2 - 1) + " … (cut)"


@pytest.mark.parametrize("cut", [None, 1, 2047, 2048])
def test_what_is_shown_ends_with_a_whole_character(cut: int | None) -> None:
    written = b"x" + "é".encode() * 2000
    details = parse(written, written, cut=cut).error.details
    assert details["stdout"] == details["stderr"] == "x" + "é" * 1023


def test_ten_mebibytes_are_taken_in_the_pieces_that_a_socket_gives() -> None:
    collecting = collector(max_output=11 << 20)
    document = b'{"success": true, "output": "' + b"x" * (10 << 20) + b'"}'
    for start in range(0, len(document), 65_536):
        collecting.feed(Chunk("stdout", document[start : start + 65_536]))
    assert len(collecting.finish().output) == 10 << 20


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


@pytest.mark.parametrize("cut", [1, 7, 100, 100_000])
def test_logs_are_kept_up_to_the_cap_however_they_are_cut(cut: int) -> None:
    collecting = collector(max_logs=1000)
    data = b"".join(b"%099d\n" % number for number in range(15))
    with contextlib.suppress(LimitExceeded):
        for start in range(0, len(data), cut):
            collecting.feed(Chunk("stderr", data[start : start + cut]))
    with pytest.raises(LimitExceeded):
        collecting.feed(Chunk("stderr", b"more\n"))
    messages = [entry.message for entry in collecting.finish().logs]
    assert messages == [f"{number:099}" for number in range(10)] + [REST_CUT]


def test_init_s_report_does_not_count_against_the_cap_on_logs() -> None:
    collecting = collector(max_logs=100)
    collecting.feed(Chunk("stderr", b"x" * 99 + b"\n"))
    collecting.feed(Chunk("stderr", REPORT))
    assert len(collecting.finish().logs) == 1
    assert collecting.report is not None


def test_a_million_empty_lines_do_not_become_a_million_entries() -> None:
    collecting = collector(max_logs=1 << 20)
    with pytest.raises(LimitExceeded):
        collecting.feed(Chunk("stderr", b"\n" * 1_000_000))
    assert len(collecting.finish().logs) <= (1 << 20) / MIN_ENTRY + 1


@pytest.mark.parametrize(
    "stdout",
    [
        b"line\n" * 1000 + b'{"success": true, "output": 1}',
        json.dumps({"success": True, "output": 1, "logs": ["line"] * 1000}).encode(),
    ],
)
def test_logs_that_come_with_a_response_are_cut_at_the_cap_and_the_response_counts(
    stdout: bytes,
) -> None:
    collecting = collector(max_logs=10 * MIN_ENTRY)
    collecting.feed(Chunk("stdout", stdout))
    parsed = collecting.finish()
    assert parsed.output == 1
    assert [entry.message for entry in parsed.logs] == ["line"] * 10 + [REST_CUT]


def test_counters_say_what_was_taken() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", b"12345"))
    collecting.feed(Chunk("stderr", b"x" * 99 + b"\n" + b"yyy"))
    assert (collecting.output_bytes, collecting.log_bytes) == (5, 103)


@pytest.mark.parametrize(
    ("stream", "size", "filled"),
    [("stderr", 500, 0.5), ("stdout", 500, 0.25), ("stderr", 5000, 1.0), ("stdout", 5000, 1.0)],
)
def test_the_cap_that_is_used_most_tells_how_near_a_function_is_to_its_end(
    stream: Any, size: int, filled: float
) -> None:
    collecting = collector(max_logs=1000, max_output=2000)
    assert collecting.filled == 0
    with contextlib.suppress(LimitExceeded):
        collecting.feed(Chunk(stream, b"x" * size))
    assert collecting.filled == filled


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"12345678", b"\xc3\xa9"])), st.data()
)
def test_lines_are_the_same_however_they_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    lines = LineSplitter(8)
    seen: list[Line] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        seen += lines.feed(whole[start:end])
    seen += lines.finish()
    expected = whole.split(b"\n")
    ended = [len(line) + 1 for line in expected[:-1]] + [len(expected[-1])] * bool(expected[-1])
    assert [line.size for line in seen] == ended
    assert [line.data for line in seen] == [
        line[:8].removesuffix(b"\r") for line in expected[: len(ended)]
    ]
    assert [line.cut for line in seen] == [len(line) > 8 for line in expected[: len(ended)]]


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


@pytest.mark.parametrize("before", [b"x" * 60_000, b"\x1e", b"\x1e" * 600, b"\x1ea\n\x1e\n"])
def test_a_report_behind_anything_is_found_however_it_is_cut(before: bytes) -> None:
    outcomes = []
    for cut in (1, 3, 511, 512, 513, 100_000):
        collecting = collector()
        for start in range(0, len(before + REPORT), cut):
            collecting.feed(Chunk("stderr", (before + REPORT)[start : start + cut]))
        outcomes.append(collecting.finish())
        assert collecting.report is not None
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_a_line_with_a_record_separator_in_it_stays_one_line() -> None:
    logs = parse(b"", b"one\x1etwo\n\x1e{}\nthree\x1efour").logs
    assert [entry.message for entry in logs] == ["one\x1etwo", "\x1e{}", "three\x1efour"]


@pytest.mark.parametrize(
    "change",
    [
        (b'"exit_code":0', b'"exit_code":256'),
        (b'"signal":null', b'"signal":-9'),
        (b"1.5", b"1" + b"0" * 40),
        (b"1.5", b'"1.5"'),
        (b"4096", b"1.5"),
        (b"4096", b"9" * 30),
        (b'"exec_errno":null', b'"exec_errno":1e3'),
        (b'"exec_errno":null', b'"exec_errno":2147483648'),
        (b'"tmp_full":false', b'"tmp_full":"no"'),
        (b'"denied":[]', b'"denied":[1]'),
        (b'"denied_more":0', b'"denied_more":null'),
        (b'"stdout_bytes":0', b'"stdout_bytes":-1'),
    ],
)
def test_a_report_with_values_that_cannot_be_is_a_log(change: tuple[bytes, bytes]) -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", REPORT.replace(*change)))
    assert len(collecting.finish().logs) == 1
    assert collecting.report is None


def test_a_report_that_the_function_forges_is_a_log() -> None:
    forged = REPORT.replace(NONCE.encode(), b"c0ffef")
    collecting = collector()
    collecting.feed(Chunk("stderr", REPORT + forged + forged.replace(b"c0ffef", b"")))
    assert len(collecting.finish().logs) == 2
    assert collecting.report.peak_memory_bytes == 4096


@pytest.mark.parametrize(
    "line",
    [b"\x1e{}\n", b"\x1ec0ffee{}\n", b'\x1ec0ffee{"exit_code": true}\n', b"\x1ec0ffee", b"\x1e"],
)
def test_what_only_looks_like_a_report_is_a_log(line: bytes) -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", line))
    assert len(collecting.finish().logs) == 1
    assert collecting.report is None


def test_a_response_is_complete_once_nothing_more_is_under_way() -> None:
    collecting = collector()
    response = b'{"success": true, "output": 1}\n'
    collecting.feed(Chunk("stdout", response))
    assert not collecting.complete  # more may come
    collecting.feed(Chunk("stderr", report(exit_code=None, stdout_bytes=len(response) + 1)))
    assert not collecting.complete  # more has been written
    collecting.feed(Chunk("stderr", report(exit_code=None, stdout_bytes=len(response))))
    assert collecting.complete
    assert not collecting.ended


@pytest.mark.parametrize("text", [b'{"success": true}\n', b'{"level": "info"}\n', b"[1]\n", b"{}"])
def test_what_may_be_a_log_is_no_response_before_the_end(text: bytes) -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", text))
    collecting.feed(Chunk("stderr", report(exit_code=None, stdout_bytes=len(text))))
    assert not collecting.complete
    collecting.feed(Chunk("stderr", report(stdout_bytes=len(text))))
    assert collecting.ended


def test_the_end_is_known_when_all_of_stdout_has_come() -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", report(stdout_bytes=3)))
    assert not collecting.ended
    collecting.feed(Chunk("stdout", b"abc"))
    assert collecting.ended


def test_init_announces_that_the_function_waits() -> None:
    collecting = collector()
    collecting.feed(Chunk("stderr", b'\x1e{"ready":true}\n'))
    assert not collecting.ready  # the function's own
    collecting.feed(Chunk("stderr", b'log\x1ec0ffee{"ready":tr'))
    collecting.feed(Chunk("stderr", b"ue}\n"))
    assert collecting.ready
    assert [entry.message for entry in collecting.finish().logs] == ['\x1e{"ready":true}', "log"]


def test_a_response_that_has_come_though_the_function_goes_on_is_noticed() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", b'{"success": true'))
    assert not collecting.answered
    collecting.feed(Chunk("stdout", b"}\n"))
    assert collecting.answered
