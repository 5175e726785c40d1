from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.models import dump_json
from sandbox.protocol.json_values import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    JSONValueError,
    exceeds_depth,
    loads,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_any_json_value_passes_through_exactly(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_that_can_be_written_again_or_a_json_value_error(data: bytes) -> None:
    try:
        value = loads(data)
    except JSONValueError:
        return
    assert loads(dump_json(value).encode()) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"NaN", "NaN is not JSON at line 1, column 1"),
        (b'{"NaN":\n [1, -Infinity]}', "-Infinity is not JSON at line 2, column 6"),
        (b'["1e999", 1e999]', "1e999 is out of range at line 1, column 11"),
        (b'"\xff"', "invalid UTF-8 at byte 1"),
        (b"[\n-" + b"1" * 5000 + b"]", "more than 4300 digits at line 2, column 1"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deeper than 100"),
        (b"[" * 1_000_000, "deeper than 100"),
        (b'{"a":' * 1_000_000, "deeper than 100"),
        (b'{"a": 1', "line 1, column 8"),
        (b"", "line 1, column 1"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(JSONValueError, match=reason):
        loads(data)


@pytest.mark.parametrize("text", [rb'"\"\"', rb"\\", b'"', b'"a",', b"[]", b"[{"])
def test_megabytes_of_anything_are_judged_in_time_that_grows_with_their_size_only(
    text: bytes,
) -> None:
    # The time limit of the tests is the assertion: with its square, this takes days.
    with pytest.raises(JSONValueError):
        loads(b"[]" * MAX_DEPTH + b'"' + text * (4 * 2**20 // len(text)))


def test_the_deepest_nesting_that_is_allowed_is_read() -> None:
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    text = '"' + "[{" * 500 + '\\"[", "\\\\"'
    assert loads(f"[{text}]".encode()) == json.loads(f"[{text}]")


def test_integers_of_any_size_and_lone_surrogates_pass_through() -> None:
    assert loads(b"123456789012345678901234567890") == 123456789012345678901234567890
    assert dump_json(loads(rb'"\ud800"')) == r'"\ud800"'


def test_a_byte_order_mark_is_passed_over() -> None:
    assert loads(b"\xef\xbb\xbf{}") == {}


def test_of_a_key_that_comes_twice_the_last_value_wins() -> None:
    assert loads(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize("element", [b"[],", b'{"":[]},', b"[1],", b"[[[[]]]],", b'{"a":1},'])
def test_a_document_of_nothing_but_containers_is_refused_before_it_is_built(element: bytes) -> None:
    """Eight megabytes of them would take 400."""
    data = b"[" + element * ((8 << 20) // len(element)) + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(JSONValueError, match="more than 500000 objects and arrays"):
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


def test_as_many_containers_as_are_allowed_are_read() -> None:
    assert len(loads(b"[" + b"[]," * (MAX_CONTAINERS - 1) + b"0]")) == MAX_CONTAINERS
    with pytest.raises(JSONValueError, match="objects and arrays"):
        loads(b"[" + b"[]," * MAX_CONTAINERS + b"0]")


def test_brackets_in_texts_are_no_containers() -> None:
    text = '\\"[{' * MAX_CONTAINERS
    assert loads(json.dumps([text] * 2).encode()) == [text] * 2


@given(st.lists(st.sampled_from(['"', "\\", "[", "]", "a", " "]), max_size=40), st.integers(1, 9))
def test_depth_is_counted_outside_of_texts_only(parts: list[str], most: int) -> None:
    """Against a plain reading, one character after another."""
    depth = deepest = 0
    inside = escaped = False
    for part in parts:
        if inside:
            inside = escaped or part != '"'
            escaped = not escaped and part == "\\"
        elif part == '"':
            inside = True
        elif part in "[]":
            depth += 1 if part == "[" else -1
            deepest = max(deepest, depth)
    assert exceeds_depth("".join(parts).encode(), most) == (deepest > most)
