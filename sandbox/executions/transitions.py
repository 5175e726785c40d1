"""Changes of an execution that any process may make, whichever server runs it.

All of them raise DatabaseUnavailableError if the database cannot be used.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from sandbox.errors import Code
from sandbox.executions.database import using
from sandbox.executions.tables import EXECUTIONS, INPUTS, WAITING

_c = EXECUTIONS.c
_CANCELLED: Final = "cancelled while it waited"


def cancel_waiting(database: sa.Engine, id: str, *, now: float) -> bool:  # noqa: A002 - the column's name
    """End an execution that waits, so that it never runs; False if it does not wait."""
    statement = (
        sa.update(EXECUTIONS)
        .where(_c.id == id, WAITING)
        .values(
            status="cancelled",
            code=Code.CANCELLED.value,
            message=_CANCELLED,
            ended_at=now,
            due_at=None,
        )
    )
    with using(database), database.begin() as connection:
        if connection.execute(statement).rowcount != 1:
            return False
        connection.execute(sa.delete(INPUTS).where(INPUTS.c.id == id))
    return True


def ask_cancel(database: sa.Engine, id: str) -> bool:  # noqa: A002 - the column's name
    """Ask the server that runs an execution to kill it; False if it does not run."""
    statement = (
        sa.update(EXECUTIONS).where(_c.id == id, _c.status == "running").values(cancel_asked=True)
    )
    with using(database), database.begin() as connection:
        return connection.execute(statement).rowcount == 1


def retry(database: sa.Engine, id: str, *, now: float) -> bool:  # noqa: A002 - the column's name
    """Start a `dead` execution anew, with all its attempts; False if it is not dead."""
    statement = (
        sa.update(EXECUTIONS)
        .where(_c.id == id, _c.status == "dead")
        .values(
            status="queued",
            attempts=0,
            waits=0,
            due_at=now,
            started_at=None,
            ended_at=None,
            code=None,
            message=None,
            response=None,
            log_tail="",
            output_bytes=0,
        )
    )
    with using(database), database.begin() as connection:
        return connection.execute(statement).rowcount == 1
