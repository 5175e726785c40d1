"""What the pool decides: by example for each rule, by property over arbitrary traffic."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.pool.arrivals import Arrivals
from sandbox.pool.plan import (
    LONGEST_BACK_OFF,
    Action,
    Budget,
    Demand,
    Load,
    PoolState,
    Start,
    Stop,
    back_off_until,
    load,
    plan,
)

MIB = 1 << 20
PLENTY = Budget(containers=1000, memory=1 << 50, starts=1000, idle=600.0)


def arrivals(*times: float) -> Arrivals:
    result = Arrivals()
    for time in sorted(times):
        result.note(time)
    return result


def steady(every: float, until: float, count: int = 60) -> Arrivals:
    """One invocation each `every` seconds, the last at `until`."""
    return arrivals(*(until - every * number for number in range(count)))


def demand(key: str = "f", **fields: object) -> Demand:
    values = {"memory": 128 * MIB, "boot_seconds": 0.25, "arrivals": Arrivals()} | fields
    return Demand(key=key, **values)  # type: ignore[arg-type]


def decide(*functions: Demand, now: float = 0.0, budget: Budget = PLENTY) -> list[Action]:
    return plan(PoolState(functions=functions, budget=budget), now)


def starts(actions: list[Action], key: str | None = None) -> int:
    return sum(isinstance(action, Start) and key in (None, action.key) for action in actions)


def stops(actions: list[Action], key: str | None = None) -> int:
    return sum(
        action.count for action in actions if isinstance(action, Stop) and key in (None, action.key)
    )


def applied(functions: list[Demand], actions: list[Action]) -> list[Demand]:
    """The functions with the actions carried out."""
    return [
        replace(
            function,
            booting=function.booting + starts(actions, function.key),
            ready=function.ready - stops(actions, function.key),
        )
        for function in functions
    ]


# By example


def test_a_function_that_nobody_calls_is_left_alone() -> None:
    assert decide(demand()) == []


def test_the_minimum_is_booted_and_kept() -> None:
    assert starts(decide(demand(min_warm=3, ready=1, booting=1))) == 1
    assert decide(demand(min_warm=3, ready=3), now=1e6) == []


def test_what_died_is_replaced() -> None:
    alive = demand(min_warm=2, ready=2)
    assert decide(alive) == []
    assert decide(replace(alive, ready=1)) == [Start("f", "minimum")]


def test_an_invocation_that_waits_gets_one_container_and_no_second_one() -> None:
    waits = demand(waiting=2)
    assert decide(waits) == [Start("f", "waiting")] * 2
    assert decide(replace(waits, booting=2)) == []
    assert decide(replace(waits, ready=1)) == [Start("f", "waiting")]


def test_an_invocation_that_waits_is_not_held_up_by_other_boots_nor_by_the_memory() -> None:
    busy = Budget(containers=10, memory=0, starts=0, idle=600)
    assert starts(decide(demand(waiting=1), demand("g", booting=5), budget=busy), "f") == 1


def test_a_busy_function_gets_more_than_a_quiet_one() -> None:
    busy = decide(demand(arrivals=steady(0.05, until=0)))
    quiet = decide(demand(arrivals=steady(20, until=0)))
    assert starts(busy) > 5
    assert starts(quiet) == 1


def test_what_comes_in_groups_is_expected_in_groups() -> None:
    groups = arrivals(
        *(-60.0 * number - 0.01 * place for number in range(30) for place in range(6))
    )
    assert starts(decide(demand(arrivals=groups), now=58.0)) == 6


def test_a_function_that_came_once_is_let_go() -> None:
    once = demand(arrivals=arrivals(0.0), ready=1)
    assert stops(decide(once, now=10.0)) == 0
    assert stops(decide(once, now=600.0)) == 1


def test_a_function_that_comes_regularly_is_booted_just_before() -> None:
    regular = demand(arrivals=steady(300, until=0, count=12))
    assert starts(decide(regular, now=150)) == 0
    assert starts(decide(regular, now=298)) == 1
    assert stops(decide(replace(regular, ready=1), now=298)) == 0
    assert stops(decide(replace(regular, ready=1), now=450)) == 1


def test_a_slow_boot_begins_early_enough() -> None:
    slow = demand(arrivals=steady(20, until=0), boot_seconds=8.0, memory=2048 * MIB)
    assert starts(decide(slow, now=2.0)) == 0
    assert starts(decide(slow, now=12.0)) == 1
    assert starts(decide(replace(slow, boot_seconds=0.2), now=12.0)) == 0


def test_a_container_is_not_held_for_longer_than_its_use_is_worth() -> None:
    hourly = demand(arrivals=steady(3600, until=0, count=12))
    assert stops(decide(replace(hourly, ready=1), now=1800)) == 1
    assert starts(decide(hourly, now=3590)) == 1


def test_all_that_is_not_a_minimum_is_let_go_in_the_end() -> None:
    function = demand(arrivals=steady(1, until=0), ready=9, min_warm=2)
    assert stops(decide(function, now=5 * 3600.0)) == 7


def test_no_function_has_more_than_its_maximum() -> None:
    assert starts(decide(demand(arrivals=steady(0.01, until=0), max_warm=4))) == 4


def test_a_function_that_cannot_wait_for_its_request_is_never_booted_ahead() -> None:
    cold = demand(cold_only=True, min_warm=3, arrivals=steady(0.1, until=0))
    assert decide(cold) == []
    assert decide(replace(cold, waiting=1)) == [Start("f", "waiting")]


def test_after_boots_that_failed_the_next_comes_later_and_later() -> None:
    assert back_off_until(demand()) == -inf
    pauses = []
    for failures in (1, 2, 3, 50, 5000):
        failing = demand(min_warm=1, boot_failures=failures, failed_at=100.0)
        pauses.append(back_off_until(failing) - 100.0)
        assert starts(decide(failing, now=99.0 + pauses[-1])) == 0
        assert starts(decide(failing, now=100.0 + pauses[-1])) == 1
    assert pauses == [1, 2, 4, LONGEST_BACK_OFF, LONGEST_BACK_OFF]


def test_an_invocation_that_waits_is_tried_even_if_boots_fail() -> None:
    failing = demand(waiting=1, boot_failures=9, failed_at=0.0)
    assert decide(failing, now=0.0) == [Start("f", "waiting")]


def test_minimums_are_filled_level_by_level() -> None:
    small = replace(PLENTY, containers=5)
    actions = decide(demand("a", min_warm=9), demand("b", min_warm=2), budget=small)
    assert (starts(actions, "a"), starts(actions, "b")) == (3, 2)


def test_waiting_functions_share_what_is_left() -> None:
    small = replace(PLENTY, containers=9)
    actions = decide(demand("a", waiting=50, busy=4), demand("b", waiting=2), budget=small)
    assert (starts(actions, "a"), starts(actions, "b")) == (3, 2)


def test_one_busy_function_does_not_starve_the_others() -> None:
    small = replace(PLENTY, containers=12)
    quiet = [demand(f"quiet-{n}", arrivals=steady(0.5, until=0)) for n in range(6)]
    busy = demand("busy", arrivals=steady(0.01, until=0, count=2000), max_warm=100)
    assert starts(decide(busy)) > 12
    actions = decide(busy, *quiet, budget=small)
    assert all(starts(actions, function.key) >= 1 for function in quiet)
    assert starts(actions) == 12


def test_the_room_is_taken_from_what_is_worth_least() -> None:
    full = replace(PLENTY, containers=2)
    idle = demand("idle", arrivals=steady(100, until=0), ready=1)
    used = demand("used", arrivals=steady(1, until=0), ready=1)
    new = demand("new", waiting=1)
    assert decide(idle, used, new, budget=full) == [Stop("idle", 1), Start("new", "waiting")]


def test_no_room_is_taken_for_what_is_worth_about_the_same() -> None:
    full = replace(PLENTY, containers=1)
    here = demand("here", arrivals=steady(1.2, until=0), ready=1)
    there = demand("there", arrivals=steady(1, until=0))
    assert decide(here, there, budget=full) == []


def test_a_change_of_one_function_is_planned_without_the_others() -> None:
    one = demand(min_warm=3)
    others = Load(containers=8, memory=0, booting=0)
    small = replace(PLENTY, containers=10)
    assert starts(plan(PoolState(functions=[one], budget=small, elsewhere=others), 0.0)) == 2


# By property


@st.composite
def histories(draw: st.DrawFn) -> Arrivals:
    result, now = Arrivals(), 0.0
    for pause in draw(st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0, 60.0, 300.0]))):
        now += pause
        if now > 1000:
            break
        result.note(now)
    return result


counts = st.integers(min_value=0, max_value=6)
budgets = st.builds(
    Budget,
    containers=st.integers(0, 40),
    memory=st.integers(0, 3000).map(lambda mebibytes: mebibytes * MIB),
    starts=st.integers(0, 8),
    idle=st.sampled_from([0.0, 1.0, 60.0, 600.0]),
)
some_functions = st.lists(
    st.builds(
        Demand,
        key=st.sampled_from("abcdefgh"),
        memory=st.sampled_from([16, 100, 128, 777]).map(lambda mebibytes: mebibytes * MIB),
        arrivals=histories(),
        min_warm=counts,
        max_warm=counts,
        boot_seconds=st.sampled_from([None, 0.0, 0.2, 5.0]),
        ready=counts,
        booting=counts,
        busy=counts,
        waiting=counts,
        boot_failures=st.sampled_from([0, 0, 1, 9]),
        failed_at=st.floats(0, 1000),
        cold_only=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda function: function.key,
)
times = st.floats(min_value=1000.0, max_value=30_000.0)


@given(some_functions, budgets, times)
def test_carried_out_it_asks_for_nothing_more(
    functions: list[Demand], budget: Budget, now: float
) -> None:
    actions = decide(*functions, now=now, budget=budget)
    after = applied(functions, actions)
    assert decide(*after, now=now, budget=budget) == []


@given(some_functions, budgets, times)
def test_no_action_exceeds_the_budget(functions: list[Demand], budget: Budget, now: float) -> None:
    actions = decide(*functions, now=now, budget=budget)
    state = functions
    for action in actions:
        state = applied(state, [action])
        if isinstance(action, Stop):
            continue
        used = load(state)
        assert used.containers <= budget.containers
        if action.reason != "waiting":
            assert used.memory <= budget.memory
            assert used.booting <= budget.starts


@given(some_functions, budgets, times)
def test_what_is_over_the_budget_is_stopped_as_far_as_it_can_be(
    functions: list[Demand], budget: Budget, now: float
) -> None:
    after = applied(functions, decide(*functions, now=now, budget=budget))
    used = load(after)
    if used.containers > budget.containers or used.memory > budget.memory:
        assert all(function.idle == 0 for function in after)


@given(some_functions, budgets, times)
def test_only_what_is_idle_is_stopped(functions: list[Demand], budget: Budget, now: float) -> None:
    actions = decide(*functions, now=now, budget=budget)
    for function in functions:
        assert 0 <= stops(actions, function.key) <= function.idle


@given(some_functions, budgets, times, st.randoms(use_true_random=False))
def test_the_order_of_the_functions_means_nothing(
    functions: list[Demand], budget: Budget, now: float, shuffle: random.Random
) -> None:
    shuffled = list(functions)
    shuffle.shuffle(shuffled)
    assert decide(*shuffled, now=now, budget=budget) == decide(*functions, now=now, budget=budget)


@given(some_functions, budgets, times)
def test_where_there_is_room_the_minimum_is_there(
    functions: list[Demand], budget: Budget, now: float
) -> None:
    roomy = replace(budget, containers=1000, memory=1 << 50, starts=1000)
    after = applied(functions, decide(*functions, now=now, budget=roomy))
    for function in after:
        if not function.cold_only and back_off_until(function) <= now:
            assert function.stock >= function.min_warm


@given(some_functions, budgets, times)
def test_nobody_waits_while_something_idle_holds_the_room(
    functions: list[Demand], budget: Budget, now: float
) -> None:
    after = applied(functions, decide(*functions, now=now, budget=budget))
    if any(function.waiting > function.ready + function.booting for function in after):
        assert load(after).containers >= budget.containers
        assert all(function.idle == 0 for function in after)


@given(some_functions, budgets, times)
def test_nothing_is_booted_ahead_in_back_off_or_for_what_cannot_wait(
    functions: list[Demand], budget: Budget, now: float
) -> None:
    by_key = {function.key: function for function in functions}
    for action in decide(*functions, now=now, budget=budget):
        if isinstance(action, Start) and action.reason != "waiting":
            assert not by_key[action.key].cold_only
            assert back_off_until(by_key[action.key]) <= now


@given(some_functions)
def test_in_the_end_only_minimums_are_left(functions: list[Demand]) -> None:
    later = 1000.0 + 5 * 3600
    quiet = [replace(function, waiting=0, booting=0) for function in functions]
    after = applied(quiet, decide(*quiet, now=later))
    for function in after:
        assert (
            function.ready
            <= (0 if function.cold_only else function.min_warm)
            + (function.boot_failures > 0) * function.ready
        )


@pytest.mark.parametrize(
    ("pauses", "containers"),
    [([7.0, 9.0], 1), ([1.0, 3.0, 10.0, 30.0], 2), ([2.0] * 4, 2), ([30.0, 20.0, 10.0, 5.0], 3)],
)
def test_under_steady_traffic_containers_are_not_swapped_to_and_fro(
    pauses: list[float], containers: int
) -> None:
    """Functions called at random at constant rates share too few containers."""
    tight = Budget(containers=containers, memory=1 << 50, starts=2, idle=600.0)
    chance = random.Random(1)
    functions = [demand(f"f{number}") for number in range(len(pauses))]
    coming = [chance.expovariate(1 / pause) for pause in pauses]
    came = stopped = 0
    for second in range(600):
        for number, pause in enumerate(pauses):
            while coming[number] <= second:
                functions[number].arrivals.note(coming[number])
                coming[number] += chance.expovariate(1 / pause)
                came += 1
        actions = decide(*functions, now=float(second), budget=tight)
        functions = [
            replace(function, ready=function.ready + function.booting, booting=0)
            for function in applied(functions, actions)
        ]
        stopped += stops(actions)
    assert stopped <= 10 + came / 5


@pytest.mark.parametrize("idle", [0.0, -1.0])
def test_without_idle_time_only_minimums_are_warm(idle: float) -> None:
    none = replace(PLENTY, idle=idle)
    busy = demand(arrivals=steady(0.1, until=0), min_warm=1, ready=4)
    assert decide(busy, budget=none) == [Stop("f", 3)]


def test_who_had_no_start_for_longest_comes_first() -> None:
    budget = Budget(containers=99, memory=99 << 30, starts=1, idle=600.0)
    started = dict.fromkeys("abcd", 0.0)
    order = []
    for now in range(1, 13):
        demands = [demand(key, min_warm=1, started_at=at) for key, at in started.items()]
        (action,) = plan(PoolState(functions=demands, budget=budget), float(now))
        started[action.key] = float(now)
        order.append(action.key)
    assert sorted(order) == sorted("abcd" * 3)
