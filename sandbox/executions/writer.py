"""`Writer`: the thread that records synchronous executions.

An invocation leaves its execution here and goes on: it never waits for the database, and never
fails because of it. Executions are gathered for a moment and written together; one that begins and
ends within that moment is written once. While the database cannot be written, only so many are
kept; the oldest of more are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sandbox.executions.database import unavailable
from sandbox.executions.model import Bookkeeping
from sandbox.executions.rows import to_row
from sandbox.executions.tables import EXECUTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.executions.model import Execution

log = logging.getLogger(__name__)

_GATHER_SECONDS: Final = 0.2
# So many executions are written at once.
_BATCH: Final = 500
_RETRY_SECONDS: Final = 2.0
# The range of SQLite's integers.
_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1
# Troubles of the database that pass: it is away, locked, or full.
_AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError, OSError)


class Writer:
    """Writes executions of the server `owner`, in a thread of its own.

    Safe to use from many threads. It keeps at most `capacity` executions that cannot be written.
    """

    def __init__(self, database: sa.Engine, *, owner: str, capacity: int = 10_000) -> None:
        self._database = database
        self._bookkeeping = Bookkeeping(owner=owner)
        self._capacity = capacity
        self._upsert = _upsert(database.dialect.name)
        self._upsert_many = _upsert_many_sqlite() if database.dialect.name == "sqlite" else None
        self._changed = threading.Condition()
        # By id, the oldest first. The thread is writing those in `_writing`.
        self._waiting: dict[str, Execution] = {}
        self._writing: dict[str, Execution] = {}
        # Recorded as running: without their end, they would seem to run for ever.
        self._begun: set[str] = set()
        self._dropped = 0
        self._failing = False
        self._hurry = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="execution-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many executions were never recorded because the database could not be written."""
        return self._dropped

    @property
    def failing(self) -> bool:
        return self._failing

    def put(self, execution: Execution) -> None:
        """Write it soon, in place of an unwritten one of the same id."""
        with self._changed:
            self._waiting[execution.id] = execution
            if len(self._waiting) + len(self._writing) > self._capacity:
                self._drop()
            if len(self._waiting) in (1, _BATCH):
                self._changed.notify_all()

    def get(self, id: str) -> Execution | None:  # noqa: A002 - the column's name
        """The execution of that id that is not written yet."""
        with self._changed:
            return self._waiting.get(id) or self._writing.get(id)

    def flush(self, *, timeout: float) -> bool:
        """Wait up to `timeout` seconds until everything is written; whether it is."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: not (self._waiting or self._writing) or self._failing, timeout
            ) and not (self._waiting or self._writing)

    def close(self, *, timeout: float = 10.0) -> None:
        """Write the rest and end, within about `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        left = len(self._waiting) + len(self._writing)
        if left:
            self._dropped += left
            log.error("%d executions were not recorded: the database cannot be written", left)

    def _drop(self) -> None:
        for id in self._waiting:  # noqa: A001 - the column's name
            if id not in self._begun:
                del self._waiting[id]
                self._dropped += 1
                break

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._changed.wait_for(
                    lambda: self._hurry or self._closing or len(self._waiting) >= _BATCH,
                    _GATHER_SECONDS,
                )
                self._hurry = False
                self._writing, self._waiting = self._waiting, {}
            error = self._write(self._writing)
            with self._changed:
                if error is None:
                    self._noted(self._writing)
                else:
                    self._waiting = {**self._writing, **self._waiting}
                self._writing = {}
                self._tell(error)
                self._changed.notify_all()
                if error is not None:
                    if self._closing:
                        return
                    self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS)

    def _row(self, execution: Execution) -> dict[str, Any]:
        # In this thread, to spare the invocation the work.
        return to_row(execution, self._bookkeeping)

    def _write(self, executions: Mapping[str, Execution]) -> Exception | None:
        """Write all together; the error if the database cannot be written."""
        try:
            rows = [self._row(one) for one in executions.values()]
            with self._database.begin() as connection:
                if self._upsert_many is None:
                    connection.execute(self._upsert, rows)
                else:
                    connection.execute(self._upsert_many, {"rows": _as_json(rows)})
        except _AWAY as error:
            return error
        except Exception:  # the database refuses one of them: write the others
            return self._write_singly(executions)
        return None

    def _write_singly(self, executions: Mapping[str, Execution]) -> Exception | None:
        for execution in executions.values():
            try:
                with self._database.begin() as connection:
                    connection.execute(self._upsert, [self._row(execution)])
            except _AWAY as error:
                return error  # all are tried again: writing one twice changes nothing
            except Exception:  # the edge of a thread, which must not end
                self._dropped += 1
                log.exception("the execution %s was not recorded", execution.id)
        return None

    def _noted(self, executions: Mapping[str, Execution]) -> None:
        for id, execution in executions.items():  # noqa: A001 - the column's name
            if execution.ended_at is None:
                self._begun.add(id)
            else:
                self._begun.discard(id)

    def _tell(self, error: Exception | None) -> None:
        """Log when the database goes away, and when it is back."""
        if error is not None and not self._failing:
            log.error("executions are not recorded for now: %s", unavailable(self._database, error))
        elif error is None and self._failing:
            log.warning("executions are recorded again; %d were not, so far", self._dropped)
        self._failing = error is not None


def _upsert(dialect: str) -> Any:
    """A statement that inserts an execution, or replaces its row while that is running."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return _or_replace(insert(EXECUTIONS))


def _upsert_many_sqlite() -> Any:
    """The same for many rows in one statement, as JSON in `rows`.

    For each statement the driver releases the interpreter, and may wait long to get it back.
    """
    row = sa.func.json_each(sa.bindparam("rows")).table_valued("value")
    names = [column.name for column in EXECUTIONS.c]
    values = [sa.func.json_extract(row.c.value, f"$.{name}") for name in names]
    # Without a condition, SQLite would read ON CONFLICT as the ON of a join.
    source = sa.select(*values).where(sa.true())
    return _or_replace(sqlite.insert(EXECUTIONS).from_select(names, source))


def _as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as JSON. Raises ValueError for numbers that the database would change."""
    for row in rows:
        if any(isinstance(value, int) and not _LEAST <= value <= _MOST for value in row.values()):
            raise ValueError("an integer of more than 64 bits")
    return json.dumps(rows, allow_nan=False)


def _or_replace(statement: Any) -> Any:
    new, old = statement.excluded, EXECUTIONS.c
    return statement.on_conflict_do_update(
        index_elements=[old.id],
        set_={column.name: new[column.name] for column in old if column.name != "cancel_asked"},
        where=sa.and_(
            old.status == "running",
            sa.not_(old.asynchronous),
            old.owner == new.owner,
            old.created_at == new.created_at,
        ),
    )
