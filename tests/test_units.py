from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(30, 30), ("30", 30), ("30s", 30), ("5m", 300), ("500ms", 0.5), (0.5, 0.5), (" 1 h ", 3600)],
)
def test_durations_of_the_contract_are_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [(128, 128 << 20), ("128", 128 << 20), ("128mb", 128 << 20), ("1GB", 1 << 30), ("64kb", 65536)],
)
def test_sizes_of_the_contract_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "bad",
    [
        0,
        -1,
        "0s",
        "-5s",
        float("nan"),
        float("inf"),
        1e99,
        "1e9",
        "",
        "s",
        "5 weeks",
        True,
        None,
        [],
        "9" * 33,
        "٣٠s",
    ],  # noqa: RUF001 - digits that int() would accept
)
def test_what_is_no_limit_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="is not|out of range"):
        parse_duration(bad)
    with pytest.raises(ValueError, match="is not|out of range"):
        parse_size(bad)


@given(st.integers(min_value=1, max_value=86_400))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=1, max_value=1000))
def test_a_formatted_size_reads_back(megabytes: int) -> None:
    assert parse_size(format_size(megabytes << 20)) == megabytes << 20


@given(st.text())
def test_any_text_is_a_limit_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) > 0
