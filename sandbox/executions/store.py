"""`ExecutionStore`: the record of executions, behind one object.

A synchronous execution is recorded after its response, by a thread. An asynchronous one is in the
queue, which records each of its steps before the next begins.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from sandbox.executions import queries
from sandbox.executions.database import create_tables, database_url, open_database, reading, using
from sandbox.executions.model import ENDED
from sandbox.executions.queue import ExecutionQueue
from sandbox.executions.servers import ServerHeartbeat
from sandbox.executions.tables import EXECUTIONS, METADATA
from sandbox.executions.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.config.server_settings import ExecutionSettings
    from sandbox.config.settings import Settings
    from sandbox.executions.model import Execution, ExecutionQuery

# How many executions one transaction deletes, so that nobody waits long for SQLite's lock.
_FORGOTTEN_AT_ONCE: Final = 1000


def open_store(settings: Settings, *, clock: Callable[[], float] = time.time) -> ExecutionStore:
    """The record of executions that the settings name, for a process that runs executions.

    Raises:
        InvalidSettingsError, DatabaseUnavailableError: see `open_database`.
    """
    database = open_database(database_url(settings))
    try:
        create_tables(database, METADATA)
        server = ServerHeartbeat(database, settings.store_directory)
    except BaseException:
        database.dispose()
        raise
    return ExecutionStore(database, settings.server.executions, server=server, clock=clock)


class ExecutionStore:
    """Executions on record. Safe to use from many threads; whoever opens it closes it.

    Others may keep tables of their own in its `database`.
    """

    def __init__(
        self,
        database: sa.Engine,
        settings: ExecutionSettings,
        *,
        server: ServerHeartbeat,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.settings = settings
        self.server = server
        self.clock = clock
        self.queue = ExecutionQueue(
            database,
            owner=server.id,
            most=settings.queue,
            most_bytes=settings.queue_bytes,
            clock=clock,
        )
        self._writer = Writer(database, owner=server.id)
        self._closed = False

    @property
    def dropped(self) -> int:
        """How many executions were never recorded because the database could not be written."""
        return self._writer.dropped

    @property
    def failing(self) -> bool:
        """Whether executions cannot be recorded at the moment."""
        return self._writer.failing

    def record(self, execution: Execution) -> None:
        """Record a synchronous execution as it is now. Takes microseconds, never fails."""
        self._writer.put(execution)

    def get(self, id: str) -> Execution | None:  # noqa: A002 - the field's name
        """The execution of that id, with its response if it is kept.

        Raises:
            DatabaseUnavailableError: the database cannot be used.
        """
        return self._writer.get(id) or queries.find(self.database, id)

    def list(self, wanted: ExecutionQuery) -> queries.Page:
        self._writer.flush(timeout=1.0)
        return queries.find_page(self.database, wanted)

    def forget(self) -> int:
        """Delete executions that ended too long ago, and the oldest above the number to keep.

        Returns how many it has deleted.

        Raises:
            DatabaseUnavailableError: the database cannot be used.
        """
        ended_at, id = EXECUTIONS.c.ended_at, EXECUTIONS.c.id  # noqa: A001 - the column's name
        too_old = ended_at < self.clock() - self.settings.keep
        forgotten = self._delete(too_old)
        newest_first = (
            sa.select(ended_at, id)
            .where(EXECUTIONS.c.status.in_(ENDED))
            .order_by(ended_at.desc(), id.desc())
        )
        with using(self.database), reading(self.database) as connection:
            first = connection.execute(
                newest_first.offset(self.settings.keep_count).limit(1)
            ).first()
        if first is not None:
            forgotten += self._delete(sa.tuple_(ended_at, id) <= sa.tuple_(*first))
        return forgotten

    def _delete(self, which: sa.ColumnElement[bool]) -> int:
        ended = EXECUTIONS.c.status.in_(ENDED)
        some = sa.select(EXECUTIONS.c.id).where(ended, which).limit(_FORGOTTEN_AT_ONCE)
        statement = sa.delete(EXECUTIONS).where(EXECUTIONS.c.id.in_(some.scalar_subquery()))
        deleted = 0
        while True:
            with using(self.database), self.database.begin() as connection:
                count = connection.execute(statement).rowcount
            deleted += count
            if count < _FORGOTTEN_AT_ONCE:
                return deleted

    def close(self) -> None:
        """Write what is left, then close the database."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self.server.close()
        self.database.dispose()
