"""The pool's decisions over simulated traffic, against what others do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulate import BUDGET, compare, make_trace, with_plan


@pytest.mark.parametrize("seed", [7, 8])
def test_at_equal_memory_fewer_invocations_wait_than_under_a_fixed_keep_alive(seed: int) -> None:
    trace = make_trace(seed, functions=60, hours=0.75, rate=2.0)
    planned, kept_alive = compare(trace, replace(BUDGET, idle=200.0))
    assert kept_alive.average_memory == pytest.approx(planned.average_memory, rel=0.05)
    assert planned.cold_rate < 0.9 * kept_alive.cold_rate
    assert planned.starts < 1.2 * kept_alive.starts


def test_everybody_is_served_by_a_container_of_its_own() -> None:
    trace = make_trace(9, functions=20, hours=0.1, rate=5.0)
    outcome = with_plan(trace)
    counted = sum(time >= trace.begin for time, _ in trace.arrivals)
    # All but those for which a container was still booting at the end.
    assert counted - 5 <= len(outcome.delays) <= counted
    assert outcome.starts >= len(outcome.delays) - 200
