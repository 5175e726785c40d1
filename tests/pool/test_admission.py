"""Who may wait for a container, and who is refused at once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sandbox.pool.admission import (
    LONGEST_RETRY,
    SHORTEST_RETRY,
    Admitted,
    QueueLimits,
    QueueState,
    Rejected,
    admit,
    expected_wait,
)

LIMITS = QueueLimits(length=100, per_function=20)
FREE = QueueState(waiting=0, waiting_here=0, busy=0, places=4, boot=0.25, run=0.05, hold=0.5)
FULL = replace(FREE, busy=4)


def test_with_a_place_free_everybody_is_let_in() -> None:
    assert admit(FREE, QueueLimits(length=0, per_function=0), time_left=0.01) == Admitted(0.25)


def test_a_ready_container_needs_no_boot() -> None:
    assert expected_wait(replace(FREE, ready=1)) == 0.0
    assert expected_wait(replace(FULL, ready=1, waiting=1, waiting_here=1)) > 0.25


def test_the_queues_have_lengths() -> None:
    assert isinstance(admit(FULL, LIMITS, time_left=30), Admitted)
    many = admit(replace(FULL, waiting=100), LIMITS, time_left=1000)
    same = admit(replace(FULL, waiting=20, waiting_here=20), LIMITS, time_left=1000)
    assert isinstance(many, Rejected)
    assert isinstance(same, Rejected)
    assert "this function" in same.reason
    assert "this function" not in many.reason


def test_who_would_wait_in_vain_is_refused_at_once() -> None:
    behind = replace(FULL, waiting=40, hold=2.0)
    assert isinstance(admit(behind, LIMITS, time_left=60), Admitted)
    refused = admit(behind, LIMITS, time_left=5)
    assert isinstance(refused, Rejected)
    assert "time limit" in refused.reason


def test_with_nothing_measured_it_is_let_in() -> None:
    unknown = QueueState(waiting=1, waiting_here=1, busy=4, places=4)
    assert isinstance(admit(unknown, LIMITS, time_left=30), Admitted)


counts = st.integers(0, 500)
seconds = st.none() | st.floats(0, 1000)
queues = st.builds(
    QueueState,
    waiting=counts,
    waiting_here=counts,
    busy=counts,
    places=st.integers(1, 64),
    ready=counts,
    boot=seconds,
    run=seconds,
    hold=seconds,
)


@given(queues, st.floats(-10, 1000))
def test_the_queue_never_grows_over_its_length(queue: QueueState, time_left: float) -> None:
    decision = admit(queue, LIMITS, time_left=time_left)
    if queue.busy + queue.waiting >= queue.places and isinstance(decision, Admitted):
        assert queue.waiting < LIMITS.length
        assert queue.waiting_here < LIMITS.per_function
        assert decision.wait <= time_left
    if isinstance(decision, Rejected):
        assert SHORTEST_RETRY <= decision.retry_after <= LONGEST_RETRY
        assert decision.reason


@given(queues, st.integers(0, 50))
def test_the_wait_grows_with_the_queue(queue: QueueState, more: int) -> None:
    longer = replace(queue, waiting=queue.waiting + more)
    assert 0 <= expected_wait(queue) <= expected_wait(longer)
