"""The benchmarks' harness: statistics, tables, marks; and its functions, on the fake engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.context import FUNCTIONS, ready, wait_for
from benchmarks.interleave import NotCountedError, Way, interleaved
from benchmarks.marks import Mark, marks
from benchmarks.series import Results
from benchmarks.stats import interval, median, quantile, summarise
from benchmarks.summary import summaries
from benchmarks.table import WIDTH, number, render
from sandbox import Sandbox, Settings
from sandbox.testing import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

samples = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=50)


def test_quantiles_lie_between_the_samples() -> None:
    assert quantile([4, 1, 3, 2], 0) == 1
    assert quantile([4, 1, 3, 2], 1) == 4
    assert quantile([4, 1, 3, 2], 0.5) == 2.5
    assert median([7]) == 7


def test_there_is_no_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


@given(samples)
def test_a_summary_is_in_order(values: list[float]) -> None:
    found = summarise(values)
    assert found.least <= found.low <= found.high
    assert found.least <= found.p50 <= found.p95 <= found.p99 <= max(values)
    assert found.count == len(values)


def test_an_interval_is_wide_where_samples_differ_and_the_same_each_time() -> None:
    assert interval([5.0] * 20) == (5.0, 5.0)
    low, high = interval([float(value) for value in range(100)])
    assert low < 49.5 < high
    assert (low, high) == interval([float(value) for value in range(100)])


def full_results(*, warm: float) -> Results:
    results = Results()
    for way, value in {"bare": 20.0, "bare host": 10.0, "warm": warm}.items():
        results.add("latency", "python-stdio", way, "ms", [value] * 5, note=f"{way}, noted")
    results.add("latency", "python-stdio", "cold", "ms", [60.0])
    results.add("latency", "python-stdio", "docker run", "ms", [120.0])
    results.add("steady", "python-handler", "warm", "ms", [1.0] * 99 + [50.0])
    return results


def test_marks_are_reached_or_missed_by_ratios_of_medians() -> None:
    found = {mark.name: mark for mark in marks(full_results(warm=3.5))}
    first = found["warm / bare, Python stdio, p50"]
    # Against the faster of the two interpreters.
    assert first.value == 0.35
    assert first.reached is False
    assert found["cold / docker run, Python stdio, p50"].value == 0.5
    assert found["cold / docker run, Python stdio, p50"].reached is True
    assert next(iter(marks(full_results(warm=3.0)))).reached is True


def test_a_mark_that_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert [mark.reached for mark in marks(Results())] == [None] * len(marks(Results()))
    assert Mark("rate", "≥", 25, 24.9).reached is False
    assert Mark("rate", "≥", 25, 25).reached is True


def test_a_table_has_eighty_columns_and_all_that_was_measured() -> None:
    results = full_results(warm=3.5)
    text = render(results, marks(results), {"machine": "x" * 200})
    assert max(map(len, text.splitlines())) <= WIDTH
    for expected in ("python-stdio, ms", "docker run", "(bare, noted)", "missed"):
        assert expected in text


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.34, "12.3"), (1234.5, "1234")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_results_come_back_from_json() -> None:
    results = full_results(warm=3.5)
    again = Results.from_dict(json.loads(json.dumps(results.to_dict())))
    assert again == results
    assert [item["count"] for item in summaries(again)] == [5, 5, 5, 1, 1, 100]


def test_a_series_without_samples_is_left_out() -> None:
    results = Results()
    results.add("latency", "python-stdio", "warm gvisor", "ms", [])
    assert results.series == []


def test_ways_take_turns_and_the_first_round_is_not_kept() -> None:
    turns: list[str] = []
    ways = [
        Way("often", lambda: turns.append("often"), lambda: turns.append("prepared")),
        Way("seldom", lambda: turns.append("seldom"), lambda: None, every=3),
    ]
    times = interleaved(ways, 6)
    assert len(times["often"]) == 6
    assert len(times["seldom"]) == 2
    assert turns.count("often") == turns.count("prepared") == 7
    assert turns.count("seldom") == 3


def test_an_invocation_that_went_another_way_is_no_sample() -> None:
    def found_none_ready() -> None:
        raise NotCountedError

    assert interleaved([Way("warm", found_none_ready, lambda: None)], 3) == {"warm": []}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A fake engine, of which no container is left at the end."""
    engine = FakeEngine()
    yield engine
    assert engine.containers({}) == []


@pytest.mark.parametrize("interface", ["stdio", "handler"])
def test_the_fake_engine_serves_warm_and_once(
    engine: FakeEngine, interface: str, tmp_path: Path
) -> None:
    name = f"python-{interface}"
    settings = Settings.model_validate({"store": tmp_path, "pool": {"min_warm": 2}})
    with Sandbox(FUNCTIONS, settings=settings, engine=engine) as sandbox:
        assert sandbox.invoke(name, {"n": 1}).success
        for number in range(20):
            wait_for(lambda: ready(sandbox, name) >= 2)
            response = sandbox.invoke(name, {"n": number})
            assert response.output == {"n": number}
            assert response.stats is not None
            assert not response.stats.cold
            assert response.stats.cpu_ms == 1.5  # init's report was understood
        assert engine.created >= 21


def test_the_fake_engine_can_be_asked_again(engine: FakeEngine, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "store": tmp_path,
            "pool": {"max_warm": 1},
            "ceilings": {"reuse": 1000},
        }
    )
    with Sandbox(FUNCTIONS, settings=settings, engine=engine) as sandbox:
        for number in range(50):
            assert sandbox.invoke("python-handler", {"n": number}).output == {"n": number}
    assert engine.created <= 3


def test_every_function_of_the_benchmarks_can_be_read(engine: FakeEngine, tmp_path: Path) -> None:
    with Sandbox(
        FUNCTIONS, settings=Settings(store=tmp_path), engine=engine, warm=False
    ) as sandbox:
        assert not sandbox.problems
        assert len(sandbox.functions) == len(
            [item for item in FUNCTIONS.iterdir() if item.is_dir()]
        )
