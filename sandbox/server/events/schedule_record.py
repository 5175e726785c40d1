"""Which runs of schedules were taken, in the server's database.

A server takes a run time by an update that one server alone can make. The execution of that run has
an id that follows from its time, and there is one execution of an id. So if a server ends between
the two, the next one that starts can send the run again, and it does not run twice.
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
    # A digest of the next two: a schedule's name has any length.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("function", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("taken", sa.Double, nullable=False),
    sa.Column("execution", sa.Text),
    sa.Column("sent", sa.Boolean, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is known of a schedule: the last run time that was taken, in seconds since the epoch.

    `execution` is the last that was started; `sent` is whether it was put into the queue.
    """

    taken: float
    execution: str | None
    sent: bool


class ScheduleRecord:
    """The table. All methods raise `DatabaseUnavailableError`."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        create_tables(database, _metadata)

    def find(self, function: str, name: str, *, new: float) -> Taken:
        """What is known of it; of one that is new, that `new` was taken."""
        key = _key(function, name)
        found = self._find(key)
        if found is not None:
            return found
        row = {"id": key, "function": function, "name": name, "taken": new, "sent": True}
        with (
            using(self._database),
            suppress(IntegrityError),  # another server was first
            self._database.begin() as connection,
        ):
            connection.execute(sa.insert(_schedules).values(row))
        return self._find(key) or Taken(taken=new, execution=None, sent=True)

    def take(self, function: str, name: str, run_at: float, *, execution: str | None) -> bool:
        """Take a run time, to send `execution` for it or nothing; False if it has been taken."""
        values: dict[str, object] = {"taken": run_at, "sent": execution is None}
        if execution is not None:
            values["execution"] = execution
        return self._update(
            sa.update(_schedules)
            .where(_schedules.c.id == _key(function, name), _schedules.c.taken < run_at)
            .values(values)
        )

    def note_sent(self, function: str, name: str, run_at: float) -> None:
        """The execution of the run is in the queue, or never will be."""
        self._update(
            sa.update(_schedules)
            .where(_schedules.c.id == _key(function, name), _schedules.c.taken == run_at)
            .values(sent=True)
        )

    def _find(self, key: str) -> Taken | None:
        columns = _schedules.c.taken, _schedules.c.execution, _schedules.c.sent
        query = sa.select(*columns).where(_schedules.c.id == key)
        with using(self._database), reading(self._database) as connection:
            row = connection.execute(query).first()
        return (
            None if row is None else Taken(taken=row.taken, execution=row.execution, sent=row.sent)
        )

    def _update(self, statement: sa.Update) -> bool:
        with using(self._database), self._database.begin() as connection:
            return connection.execute(statement).rowcount == 1


def execution_id(function: str, name: str, run_at: float) -> str:
    """The id of the execution of a run."""
    return f"sch_{_digest(f'{_key(function, name)} {run_at:.3f}')[:32]}"


def _key(function: str, name: str) -> str:
    # Names of functions have no line breaks.
    return _digest(f"{function}\n{name}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
