"""Which runs of schedules were started: a table in the server's database.

A server claims a run with an update that only one server can make. The id of the run's execution
follows from the run's time, and the queue takes an id only once. So if a server ends between the
claim and the queue, the next server to start can send the run again, and it still runs once.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from sandbox.executions.database import create_tables, reading, using

_metadata = sa.MetaData()
_schedules = sa.Table(
    "schedules",
    _metadata,
    # A digest of the next two columns: a schedule's name has any length.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("function", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("taken", sa.Double, key="last_run", nullable=False),
    sa.Column("execution", sa.Text),
    sa.Column("sent", sa.Boolean, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class ScheduleState:
    """How far a schedule has come. `last_run` is the last claimed run, in seconds since the epoch.

    `execution` is the last one started; `sent` is false if it may not be in the queue yet.
    """

    last_run: float
    execution: str | None
    sent: bool


class ScheduleStore:
    """The table. All methods raise `DatabaseUnavailableError` if the database cannot be used."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        create_tables(database, _metadata)

    def find_or_create(self, function: str, name: str, *, last_run: float) -> ScheduleState:
        """The schedule's state; a new schedule starts with `last_run`."""
        key = _key(function, name)
        found = self._find(key)
        if found is not None:
            return found
        row = {"id": key, "function": function, "name": name, "last_run": last_run, "sent": True}
        with (
            using(self._database),
            suppress(IntegrityError),  # another server was first
            self._database.begin() as connection,
        ):
            connection.execute(sa.insert(_schedules).values(row))
        return self._find(key) or ScheduleState(last_run=last_run, execution=None, sent=True)

    def claim(self, function: str, name: str, run_at: float, *, execution: str | None) -> bool:
        """Claim a run, to send `execution` or, for None, to skip it. False if already claimed."""
        values: dict[str, object] = {"last_run": run_at, "sent": execution is None}
        if execution is not None:
            values["execution"] = execution
        return self._update(
            sa.update(_schedules)
            .where(_schedules.c.id == _key(function, name), _schedules.c.last_run < run_at)
            .values(values)
        )

    def mark_sent(self, function: str, name: str, run_at: float) -> None:
        """Record that the run's execution is in the queue, or never will be."""
        self._update(
            sa.update(_schedules)
            .where(_schedules.c.id == _key(function, name), _schedules.c.last_run == run_at)
            .values(sent=True)
        )

    def _find(self, key: str) -> ScheduleState | None:
        columns = _schedules.c.last_run, _schedules.c.execution, _schedules.c.sent
        query = sa.select(*columns).where(_schedules.c.id == key)
        with using(self._database), reading(self._database) as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return ScheduleState(last_run=row.last_run, execution=row.execution, sent=row.sent)

    def _update(self, statement: sa.Update) -> bool:
        with using(self._database), self._database.begin() as connection:
            return connection.execute(statement).rowcount == 1


def execution_id(function: str, name: str, run_at: float) -> str:
    """The id of a run's execution."""
    return f"sch_{_digest(f'{_key(function, name)} {run_at:.3f}')[:32]}"


def _key(function: str, name: str) -> str:
    # A function's name has no line breaks.
    return _digest(f"{function}\n{name}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
