"""The queue of background executions, as two servers on one database see it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from sandbox import InvalidRequestError, OverloadedError
from sandbox.call import Call
from sandbox.executions.database import reading
from sandbox.executions.model import Execution, ExecutionQuery
from sandbox.executions.retries import Again
from sandbox.executions.tables import INPUTS
from sandbox.executions.transitions import ask_cancel, cancel_waiting, retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.executions.queue import Claimed
    from sandbox.executions.store import ExecutionStore

CALL = Call(function="f", input={"a": "\0\ud800ä"}, auth={"id": "me"}, timeout=3.0, caller="key:1")


def put(store: ExecutionStore, id: str = "one", *, retries: int = 0) -> Execution:
    execution = Execution(
        id=id,
        function="f",
        caller="key:1",
        trigger="http",
        status="queued",
        created_at=store.clock(),
        input_bytes=20,
    )
    store.queue.put(execution, CALL, retries=retries)
    return execution


def take(store: ExecutionStore) -> Claimed:
    claimed = store.queue.claim()
    assert claimed is not None
    return claimed


def status(store: ExecutionStore, id: str = "one") -> str:
    execution = store.get(id)
    assert execution is not None
    return execution.status


def inputs(store: ExecutionStore) -> int:
    with reading(store.database) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(INPUTS)) or 0


def succeeded(store: ExecutionStore, claimed: Claimed) -> Execution:
    return replace(
        claimed.execution, status="succeeded", ended_at=store.clock(), response={"output": 1}
    )


@pytest.fixture
def other(database: str, open_on: Callable[..., ExecutionStore]) -> ExecutionStore:
    """Another server on the same database and the same store."""
    return open_on(database)


def test_it_is_on_record_as_soon_as_it_was_put(
    store: ExecutionStore, other: ExecutionStore
) -> None:
    execution = put(store)
    assert other.get("one") == execution
    assert other.queue.waiting() == 1


def test_who_claims_it_gets_its_call_as_it_was(store: ExecutionStore) -> None:
    from sandbox.executions.rows import to_call

    put(store)
    claimed = take(store)
    assert to_call(claimed.execution, claimed.document) == replace(CALL, request_id="one")
    assert (claimed.execution.status, claimed.execution.attempts) == ("running", 1)
    assert store.queue.claim() is None


def test_its_input_is_forgotten_when_it_has_ended(store: ExecutionStore) -> None:
    put(store)
    claimed = take(store)
    assert inputs(store) == 1
    assert store.queue.finish(claimed, succeeded(store, claimed))
    assert inputs(store) == 0
    ended = store.get("one")
    assert ended is not None
    assert (ended.status, ended.response) == ("succeeded", {"output": 1})


def test_each_is_claimed_once_however_many_want_it(
    store: ExecutionStore, other: ExecutionStore
) -> None:
    for number in range(40):
        put(store, f"e{number}")
    taken: list[str] = []

    def work(mine: ExecutionStore) -> None:
        while (claimed := mine.queue.claim()) is not None or mine.queue.waiting():
            if claimed is not None:
                taken.append(claimed.execution.id)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (store, other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"e{number}" for number in range(40))


def test_only_who_has_the_last_claim_says_how_it_ended(
    store: ExecutionStore, other: ExecutionStore
) -> None:
    """A server that was taken for dead, and comes back, changes nothing."""
    put(store, retries=1)
    first = take(store)
    assert other.queue.recover({store.server.id}) == 1
    assert other.queue.recover({store.server.id}) == 0
    assert not store.queue.finish(first, succeeded(store, first))
    assert store.queue.again(first, _again(0), code="X", message="x") is None
    assert status(store) == "retrying"


def test_a_lost_one_without_retries_is_over_and_says_why(
    store: ExecutionStore, other: ExecutionStore
) -> None:
    put(store)
    take(store)
    other.queue.recover({store.server.id})
    lost = other.get("one")
    assert lost is not None
    assert (lost.status, lost.code) == ("cancelled", "CANCELLED")
    assert lost.message == "the server that ran it ended before it did"
    assert inputs(other) == 0


def test_one_that_waits_can_be_cancelled_once(store: ExecutionStore) -> None:
    put(store)
    assert cancel_waiting(store.database, "one", now=1.0)
    assert not cancel_waiting(store.database, "one", now=1.0)
    assert not ask_cancel(store.database, "one")
    assert (status(store), store.queue.claim(), inputs(store)) == ("cancelled", None, 0)


def test_a_wish_to_cancel_reaches_the_server_that_runs_it(
    store: ExecutionStore, other: ExecutionStore
) -> None:
    put(store, retries=3)
    claimed = take(store)
    assert not cancel_waiting(other.database, "one", now=1.0)
    assert ask_cancel(other.database, "one")
    assert (store.queue.asked_to_cancel(), other.queue.asked_to_cancel()) == (["one"], [])
    # It failed in the same moment: it is not tried again.
    ended = store.queue.again(claimed, _again(0), code="X", message="x")
    assert ended is not None
    assert (ended.status, status(store), inputs(store)) == ("cancelled", "cancelled", 0)


def test_the_next_attempt_waits_until_it_is_due(store: ExecutionStore) -> None:
    put(store, retries=1)
    waiting = store.queue.again(take(store), _again(3600), code="X", message="failed")
    assert waiting is not None
    assert store.queue.claim() is None
    assert store.get("one") == waiting
    due_at = store.queue.due_at()
    assert due_at is not None
    assert due_at > store.clock() + 3000


def test_a_dead_one_keeps_its_input_and_begins_anew(store: ExecutionStore) -> None:
    put(store, retries=1)
    claimed = take(store)
    dead = replace(claimed.execution, status="dead", code="X", ended_at=store.clock())
    assert store.queue.finish(claimed, dead)
    assert [found.id for found in store.list(ExecutionQuery(status="dead")).executions] == ["one"]
    assert inputs(store) == 1
    assert retry(store.database, "one", now=store.clock())
    assert not retry(store.database, "one", now=store.clock())
    again = take(store)
    assert (again.execution.attempts, again.retries) == (1, 1)


def test_a_full_queue_refuses_at_once(
    database: str, open_on: Callable[..., ExecutionStore]
) -> None:
    store = open_on(database, queue=2)
    put(store, "a")
    put(store, "b")
    with pytest.raises(OverloadedError, match="2 executions wait already"):
        put(store, "c")
    assert store.get("c") is None
    take(store)
    put(store, "c")


def test_inputs_have_a_bound_in_sum(database: str, open_on: Callable[..., ExecutionStore]) -> None:
    store = open_on(database, queue_bytes="1kb")
    for number in range(51):
        put(store, str(number))
    with pytest.raises(OverloadedError):
        put(store, "more")


def test_an_id_is_taken_once(store: ExecutionStore) -> None:
    put(store)
    with pytest.raises(InvalidRequestError, match="of that id"):
        put(store)


def _again(delay: float) -> Again:
    return Again(status="retrying", delay=delay, attempts=1, waits=0)
