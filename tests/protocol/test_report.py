"""Init's lines on stderr: told apart from the function's own bytes, and never trusted blindly."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.protocol.report import Marks, Report, parse_report

NONCE = "7f3a"
WHOLE = {
    "exit_code": 0, "signal": None, "exec_errno": None, "cpu_ms": 21.4,
    "peak_memory_bytes": 9125888, "oom_kills": 0, "pids_denied": 0, "tmp_bytes": 0,
    "tmp_full": False, "shm_full": None, "largest_file": None, "denied": ["api.example.org"],
    "denied_more": 0, "stdout_bytes": 57,
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)  # fmt: skip


def line(document: object, nonce: str = NONCE) -> bytes:
    return f"\x1e{nonce}{json.dumps(document, separators=(',', ':'))}\n".encode()


def test_a_report_has_every_field() -> None:
    assert {field.name for field in dataclasses.fields(Report)} == WHOLE.keys()
    report = parse_report(WHOLE)
    assert report is not None
    assert report.denied == ("api.example.org",)
    assert report.ended


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 256},
        {"exit_code": -1},
        {"exit_code": True},
        {"signal": 65},
        {"cpu_ms": "1"},
        {"peak_memory_bytes": 2**63},
        {"peak_memory_bytes": 1.5},
        {"tmp_full": 1},
        {"shm_full": "yes"},
        {"denied": None},
        {"denied": [1]},
        {"denied": ["a\x1b[31m"]},
        {"denied": ["a" * 254]},
        {"denied": [""]},
        {"denied_more": None},
        {"stdout_bytes": None},
        {"more": 1},
    ],
)
def test_a_field_out_of_bounds_is_no_report(change: dict) -> None:
    assert parse_report(WHOLE | change) is None


@given(st.sampled_from(sorted(WHOLE)), JSON)
def test_whatever_a_field_holds_what_comes_out_is_bounded(name: str, value: object) -> None:
    report = parse_report(WHOLE | {name: value})
    if report is not None:
        assert len(json.dumps(dataclasses.asdict(report))) < 1000
        for field in ("exit_code", "signal", "oom_kills", "tmp_bytes", "denied_more"):
            number = getattr(report, field)
            assert number is None or (type(number) is int and 0 <= number < 2**63)


@given(JSON)
def test_any_other_document_is_no_report(document: object) -> None:
    assert parse_report(document) is None


@given(st.binary(max_size=60), st.binary(max_size=60), st.data())
def test_marks_are_taken_out_wherever_the_stream_is_cut(
    before: bytes, after: bytes, data: st.DataObject
) -> None:
    marks = Marks(NONCE)
    stream = before + line({"ready": True}) + b"said" + line(WHOLE) + after
    passed = b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        passed += marks.feed(stream[:size])
        stream = stream[size:]
    passed += marks.finish()
    assert passed == before + b"said" + after
    assert marks.ready
    assert marks.report == parse_report(WHOLE)


def test_a_line_without_the_nonce_is_the_function_s_own() -> None:
    for nonce in ("", "7f3b", "7f3"):
        marks = Marks(NONCE)
        forged = line(WHOLE, nonce) + line({"ready": True}, nonce)
        assert marks.feed(forged) + marks.finish() == forged
        assert marks.report is None
        assert not marks.ready


def test_a_line_that_never_ends_is_not_kept() -> None:
    """Even who knows the nonce makes us hold 8 KiB and no more."""
    marks = Marks(NONCE)
    begun = f"\x1e{NONCE}{{".encode()
    passed = marks.feed(begun) + b"".join(marks.feed(b"x" * 100) for _ in range(1000))
    assert passed == begun + b"x" * 100_000
    assert marks.finish() == b""


def test_a_line_over_eight_kilobytes_is_no_report() -> None:
    marks = Marks(NONCE)
    long = line(WHOLE)[:-1] + b" " * 9000 + b"\n"
    assert marks.feed(long) == long
    assert marks.report is None
