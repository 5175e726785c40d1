"""Executions that somebody waited for, on record; lists; what is forgotten."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from sandbox import InvalidRequestError
from sandbox.executions.database import open_database, reading
from sandbox.executions.model import Execution, ExecutionQuery
from sandbox.executions.queries import find
from sandbox.executions.tables import EXECUTIONS, METADATA
from sandbox.executions.writer import Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.executions.store import ExecutionStore


def running(id: str, *, at: float = 1000.0, **fields: object) -> Execution:
    execution = Execution(
        id=id,
        function="f",
        caller="key:1",
        trigger="http",
        status="running",
        attempts=1,
        created_at=at,
        started_at=at,
    )
    return replace(execution, **fields)


def ended(id: str, *, at: float = 1000.0, **fields: object) -> Execution:
    return running(id, at=at, **{"status": "succeeded", "ended_at": at + 1, **fields})


def test_one_that_runs_and_has_ended_is_there_at_once(store: ExecutionStore) -> None:
    store.record(running("a"))
    assert store.get("a") == running("a")
    store.record(ended("a", message="x\0y", log_tail="\ud800"))
    assert store.get("a") is not None
    (recorded,) = store.list(ExecutionQuery()).executions
    assert recorded == ended("a", message="x\ufffdy", log_tail="?")
    assert find(store.database, "a") == recorded


def test_what_has_ended_does_not_change(store: ExecutionStore) -> None:
    """Nor can another execution of that id take its place."""
    store.record(ended("a"))
    store.list(ExecutionQuery())
    store.record(ended("a", caller="key:2", at=2000.0))
    assert [found.caller for found in store.list(ExecutionQuery()).executions] == ["key:1"]


def test_lists_go_page_by_page_newest_first(store: ExecutionStore) -> None:
    for number in range(7):
        at = 1000.0 + number // 2  # some at the same time
        store.record(ended(f"e{number}", at=at, function="f" if number % 2 else "g"))
    seen: list[str] = []
    page = store.list(ExecutionQuery(limit=3))
    while True:
        seen += [execution.id for execution in page.executions]
        if page.next is None:
            break
        page = store.list(ExecutionQuery(limit=3, before=page.next))
    assert seen == [f"e{number}" for number in range(6, -1, -1)]
    assert {found.id for found in store.list(ExecutionQuery(function="f")).executions} == {
        "e1",
        "e3",
        "e5",
    }
    assert store.list(ExecutionQuery(caller="nobody")).executions == ()
    assert store.list(ExecutionQuery(status="failed")).executions == ()


@pytest.mark.parametrize("cursor", ["x", "", "bnVsbA", "WzEsMl0", "💥", "W1tdLFtdXQ"])
def test_a_place_that_no_page_had_is_refused(store: ExecutionStore, cursor: str) -> None:
    with pytest.raises(InvalidRequestError):
        store.list(ExecutionQuery(before=cursor))


def test_what_is_old_and_what_is_too_many_is_forgotten(
    database: str, open_on: Callable[..., ExecutionStore]
) -> None:
    store = open_on(database, keep="1h", keep_count=3)
    now = store.clock()
    store.record(ended("old", at=now - 3700))
    store.record(running("runs", at=now - 9999))
    for number in range(5):
        store.record(ended(f"e{number}", at=now - 100 + number))
    store.list(ExecutionQuery())
    assert store.forget() == 3
    assert {found.id for found in store.list(ExecutionQuery()).executions} == {
        "runs",
        "e2",
        "e3",
        "e4",
    }
    assert store.forget() == 0


def test_nothing_fails_while_the_database_is_away_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Full: SQLite is given no page more than it has."""
    db = open_database(f"sqlite:///{tmp_path}/executions.db")
    METADATA.create_all(db)

    @sa.event.listens_for(db, "checkout")
    def full(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    pages = 1  # as many as it has
    writer = Writer(db, owner="me", capacity=50)
    with caplog.at_level(logging.WARNING):
        for number in range(200):
            writer.put(ended(f"e{number}", log_tail="x" * 2000))
        assert not writer.flush(timeout=20)
        assert writer.failing
        assert writer.dropped >= 150
        assert writer.get("e199") is not None
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "full" in caplog.text
        pages = 1_000_000
        writer.close(timeout=20)
    with reading(db) as connection:
        ids = set(connection.scalars(sa.select(EXECUTIONS.c.id)))
    assert len(ids) == 200 - writer.dropped <= 50
    assert "e199" in ids, "the oldest go, not the newest"
    assert not writer.failing
    db.dispose()


def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    store: ExecutionStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.record(ended("bad", peak_memory_bytes=2**70))
    store.record(ended("good"))
    assert [found.id for found in store.list(ExecutionQuery()).executions] == ["good"]
    assert store.dropped == 1


def test_what_was_recorded_is_written_when_the_store_is_closed(
    database: str, open_on: Callable[..., ExecutionStore]
) -> None:
    store = open_on(database)
    store.record(ended("a"))
    store.close()
    assert open_on(database).get("a") == ended("a")
