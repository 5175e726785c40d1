"""The line protocol between a handler's bootstrap and the executor."""

from __future__ import annotations

import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engine.base import Chunk
from sandbox.protocol.handler import HandlerCollector
from sandbox.protocol.logs import LimitExceeded
from tests.protocol.test_json_values import json_values

READY = b'{"type":"ready"}\n'
LOG = b'{"type":"log","level":"warn","message":"careful","data":{"a":1},"timestamp":"T"}\n'
RESPONSE = (
    b'{"type":"response","request_id":"r","success":true,"output":{"a":1},'
    b'"usage":{"cpu_ms":2.5,"peak_memory_bytes":4096}}\n'
)


def collector(**caps: int) -> HandlerCollector:
    return HandlerCollector(**({"max_output": 1000, "max_logs": 1000} | caps), now=lambda: "NOW")


def test_ready_log_and_response_in_order() -> None:
    collecting = collector()
    assert not collecting.ready
    collecting.feed(Chunk("stdout", READY))
    assert collecting.ready
    (entry,) = collecting.feed(Chunk("stdout", LOG))
    assert (entry.level, entry.message, entry.data) == ("warn", "careful", {"a": 1})
    assert not collecting.complete
    collecting.feed(Chunk("stdout", RESPONSE))
    assert collecting.complete
    parsed = collecting.finish()
    assert (parsed.well_formed, parsed.output, parsed.error) == (True, {"a": 1}, None)
    assert (collecting.usage.cpu_ms, collecting.usage.peak_memory_bytes) == (2.5, 4096)


def test_fed_byte_by_byte_the_outcome_is_the_same() -> None:
    collecting = collector()
    for byte in READY + LOG + RESPONSE:
        collecting.feed(Chunk("stdout", bytes([byte])))
    assert collecting.complete
    parsed = collecting.finish()
    assert parsed.output == {"a": 1}
    assert len(parsed.logs) == 1


def test_what_the_handler_prints_is_a_log_whatever_it_looks_like() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", READY))
    collecting.feed(Chunk("stderr", RESPONSE))
    assert not collecting.complete
    collecting.feed(Chunk("stdout", RESPONSE))
    assert [entry.message for entry in collecting.finish().logs] == [RESPONSE.decode().strip()]


def test_a_second_response_changes_nothing() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", RESPONSE + RESPONSE.replace(b'{"a":1}', b'{"a":2}')))
    assert collecting.finish().output == {"a": 1}


def test_an_import_that_failed_is_init_failed() -> None:
    collecting = collector()
    message = {"type": "init_error", "error": {"message": "no module", "details": {"x": 1}}}
    collecting.feed(Chunk("stdout", json.dumps(message).encode() + b"\n"))
    assert not collecting.complete
    error = collecting.init_error
    assert (error.code, error.message, error.details) == ("INIT_FAILED", "no module", {"x": 1})


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[]",
        b'{"type":"else"}',
        b'{"type":"response"}',
        b'{"type":"response","success":1}',
        b"\xff",
    ],
)
def test_a_line_that_the_bootstrap_never_sends_is_shown(line: bytes) -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", READY + line + b"\n"))
    parsed = collecting.finish()
    assert not parsed.well_formed
    assert parsed.error.code == "INVALID_RESPONSE"
    assert parsed.error.details["stdout"] == line.decode(errors="backslashreplace")


def test_the_end_before_a_response_says_so() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", READY))
    assert "before it answered" in collecting.finish().error.message


def test_a_response_over_the_cap_stops_the_function_before_its_line_ends() -> None:
    collecting = collector()
    with pytest.raises(LimitExceeded) as exceeded:
        collecting.feed(Chunk("stdout", b'{"type":"response","output":"' + b"x" * 5000))
    assert exceeded.value.limit == "output"


def test_log_messages_count_against_the_cap_on_logs() -> None:
    collecting = collector()
    with pytest.raises(LimitExceeded) as exceeded:
        collecting.feed(Chunk("stdout", LOG * 100))
    assert exceeded.value.limit == "logs"
    assert 10 <= len(collecting.finish().logs) <= 1000 / len(LOG) + 1


def test_lines_of_stderr_and_log_messages_share_one_cap_and_keep_their_order() -> None:
    collecting = collector(max_logs=len(LOG) + 100)
    for name, data in (("stderr", b"one\n"), ("stdout", LOG)):
        collecting.feed(Chunk(name, data))  # type: ignore[arg-type]
    with pytest.raises(LimitExceeded):
        collecting.feed(Chunk("stderr", b"x" * 100))
    assert [entry.message for entry in collecting.finish().logs] == [
        "one", "careful", "… (the rest of the logs was cut)",
    ]  # fmt: skip


@pytest.mark.parametrize("line", [b"junk\n", b"\n", READY, b"{}\n", b'{"type":"else"}\n'])
def test_lines_without_end_are_stopped_by_the_cap_on_output(line: bytes) -> None:
    collecting = collector()
    with pytest.raises(LimitExceeded) as exceeded:
        collecting.feed(Chunk("stdout", line * 2000))
    assert exceeded.value.limit == "output"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_line_without_end_is_stopped_in_bounded_memory(stream: str) -> None:
    collecting = collector()
    tracemalloc.start()
    for _ in range(1000):
        with contextlib.suppress(LimitExceeded):
            collecting.feed(Chunk(stream, b"x" * 65_536))  # type: ignore[arg-type]
    assert tracemalloc.get_traced_memory()[0] < 200_000
    tracemalloc.stop()


def test_a_response_whose_line_has_no_end_is_read_at_the_end() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", READY + RESPONSE.strip()))
    assert not collecting.complete
    assert collecting.finish().output == {"a": 1}


def test_half_a_response_is_shown() -> None:
    collecting = collector()
    collecting.feed(Chunk("stdout", READY + RESPONSE[:30]))
    assert collecting.finish().error.details["stdout"] == RESPONSE[:30].decode()


def test_a_failure_is_read() -> None:
    collecting = collector()
    error = {"code": "VALIDATION_ERROR", "message": "Email", "details": {"field": "email"}}
    message = {"type": "response", "request_id": "r", "success": False, "error": error}
    collecting.feed(Chunk("stdout", json.dumps(message).encode() + b"\n"))
    assert collecting.finish().error.to_dict() == error


@pytest.mark.parametrize("number", [-1, 10**400, 2**63, 1e300, True, "1", [1]])
def test_usage_that_cannot_be_is_unknown(number: object) -> None:
    usage = {"cpu_ms": number, "peak_memory_bytes": number}
    message = {"type": "response", "success": True, "usage": usage}
    collecting = collector()
    collecting.feed(Chunk("stdout", json.dumps(message).encode() + b"\n"))
    assert collecting.complete
    assert (collecting.usage.cpu_ms, collecting.usage.peak_memory_bytes) == (None, None)


def test_the_expected_response_is_taken() -> None:
    collecting = collector()
    collecting.expect("r")
    collecting.feed(Chunk("stdout", RESPONSE))
    assert (collecting.complete, collecting.mismatched) == (True, False)


@pytest.mark.parametrize("said", [b'"other"', b"null", b"7"])
def test_a_response_to_another_request_is_flagged_and_never_taken(said: bytes) -> None:
    collecting = collector()
    collecting.expect("r")
    collecting.feed(Chunk("stdout", RESPONSE.replace(b'"r"', said)))
    assert (collecting.complete, collecting.mismatched) == (False, True)
    assert "another request" in collecting.finish().error.message


@given(json_values)
def test_any_output_passes_through_exactly(output: object) -> None:
    message = {"type": "response", "success": True, "output": output}
    collecting = collector(max_output=1 << 20)
    collecting.feed(Chunk("stdout", json.dumps(message).encode() + b"\n"))
    assert collecting.finish().output == output


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40))))
def test_any_bytes_have_an_outcome(chunks: list[tuple[str, bytes]]) -> None:
    collecting = collector()
    for name, data in chunks:
        try:
            collecting.feed(Chunk(name, data))  # type: ignore[arg-type]
        except LimitExceeded:
            break
    parsed = collecting.finish()
    assert parsed.well_formed or parsed.error.code == "INVALID_RESPONSE"
