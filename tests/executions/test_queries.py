"""Executions that have ended, for `sandbox logs --follow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.executions import queries
from sandbox.executions.model import ExecutionQuery
from sandbox.executions.queries import find_ended
from tests.executions.test_store import ended, running

if TYPE_CHECKING:
    import pytest

    from sandbox.executions.store import ExecutionStore


def test_they_come_in_the_order_of_their_end_however_many(
    store: ExecutionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MOST_LISTED", 2)
    for name, at in (("c", 3.0), ("a", 1.0), ("d", 3.0), ("b", 2.0), ("e", 5.0)):
        store.record(ended(name, at=at))
    store.record(ended("other", at=4.0, function="g"))
    store.record(running("r"))
    store.list(ExecutionQuery())  # all of it is written
    found = [execution.id for execution in find_ended(store.database, since=3.0)]
    assert found == ["b", "c", "d", "other", "e"]
    mine = find_ended(store.database, since=0.0, function="g")
    assert [execution.id for execution in mine] == ["other"]
