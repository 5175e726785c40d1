"""The tables that version 1 of the database has: a change of them is a new `SCHEMA_VERSION`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from sandbox.executions.database import SCHEMA_VERSION
from sandbox.executions.rows import to_call
from sandbox.executions.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.executions.store import ExecutionStore

DIALECTS = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}


def written(dialect: str) -> str:
    """The statements that made the tables when version 1 was new."""
    text = Path(__file__).with_name("tables.sql").read_text()
    return text.split(f"-- {dialect}\n")[1].partition("-- ")[0].strip()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_tables_are_those_of_version_1(dialect: str) -> None:
    assert SCHEMA_VERSION == 1
    statements = []
    for table in METADATA.sorted_tables:
        statements.append(CreateTable(table))
        statements += [CreateIndex(it) for it in sorted(table.indexes, key=lambda it: str(it.name))]
    made = "\n".join(str(it.compile(dialect=DIALECTS[dialect])).strip() for it in statements)
    assert made.replace("\t", "    ").replace(" \n", "\n") == written(dialect)


# As version 1 writes it.
EXECUTION = """
    INSERT INTO executions VALUES (
        'old', 'f', 'key:1', 'webhook', 'queued', NULL, NULL, NULL, 0, 1.5, NULL, NULL, 1.5,
        NULL, NULL, NULL, NULL, NULL, NULL, 9, 0, '', NULL, :yes, 2, 0, NULL, 0, :no
    )
"""
DOCUMENT = (
    '{"input": {"a": [1]}, "files": [{"name": "f", "filename": "a.txt", "content_type": '
    '"text/plain", "size": 1, "data": "YQ=="}], "auth": {"id": "me"}, "timeout": 2.5, '
    '"traceparent": "00-1-2-03"}'
)


def test_a_call_in_the_queue_of_version_1_runs(
    database: str, open_on: Callable[..., ExecutionStore]
) -> None:
    db = sa.create_engine(database)
    with db.begin() as connection:
        for statement in written(db.dialect.name).replace("\nCREATE", ";\nCREATE").split(";"):
            connection.execute(sa.text(statement))
        connection.execute(sa.text(EXECUTION), {"yes": True, "no": False})
        connection.execute(
            sa.text("INSERT INTO execution_inputs VALUES ('old', :document)"),
            {"document": DOCUMENT},
        )
    db.dispose()
    claimed = open_on(database).queue.claim()
    assert claimed is not None
    assert (claimed.retries, claimed.claim, claimed.execution.attempts) == (2, 1, 1)
    call = to_call(claimed.execution, claimed.document)
    assert (call.function, call.caller, call.trigger, call.request_id) == (
        "f", "key:1", "webhook", "old",
    )  # fmt: skip
    assert (call.input, call.timeout, call.traceparent) == ({"a": [1]}, 2.5, "00-1-2-03")
    assert (call.files[0]["filename"], call.auth) == ("a.txt", {"id": "me"})
