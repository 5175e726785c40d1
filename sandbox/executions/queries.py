"""Reads executions from the database: one by its id, and lists."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from sandbox.errors import InvalidRequestError
from sandbox.executions.database import reading, using
from sandbox.executions.model import ENDED
from sandbox.executions.rows import LISTED, to_execution
from sandbox.executions.tables import EXECUTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.executions.model import Execution, ExecutionQuery

MOST_LISTED: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list, newest first. `next` is the `before` of the next page, if there is one."""

    executions: tuple[Execution, ...]
    next: str | None = None


def find(database: sa.Engine, id: str) -> Execution | None:  # noqa: A002 - the field's name
    """The execution of that id, with its response where it is kept.

    Raises:
        DatabaseUnavailableError: the database cannot be used.
    """
    query = sa.select(EXECUTIONS).where(EXECUTIONS.c.id == id)
    with using(database), reading(database) as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else to_execution(row)


def find_page(database: sa.Engine, wanted: ExecutionQuery) -> Page:
    """The executions that are wanted, without their responses.

    Raises:
        InvalidRequestError: `before` was the `next` of no page.
        DatabaseUnavailableError: the database cannot be used.
    """
    columns = EXECUTIONS.c
    query = sa.select(*LISTED).order_by(columns.created_at.desc(), columns.id.desc())
    for name in ("function", "status", "caller"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(columns[name] == value)
    if wanted.before is not None:
        place = sa.tuple_(*_place(wanted.before))
        query = query.where(sa.tuple_(columns.created_at, columns.id) < place)
    limit = max(1, min(wanted.limit, MOST_LISTED))
    with using(database), reading(database) as connection:
        rows = connection.execute(query.limit(limit + 1)).mappings().all()
    found = tuple(to_execution(row) for row in rows[:limit])
    return Page(executions=found, next=_cursor(found[-1]) if len(rows) > limit else None)


def find_ended(
    database: sa.Engine, *, since: float, function: str | None = None
) -> Iterator[Execution]:
    """The executions that ended at `since` (seconds since the epoch) or later, in that order.

    Raises:
        DatabaseUnavailableError: the database cannot be used.
    """
    columns = EXECUTIONS.c
    query = (
        sa.select(*LISTED)
        .where(columns.ended_at >= since, columns.status.in_(ENDED))
        .order_by(columns.ended_at, columns.id)
        .limit(MOST_LISTED)
    )
    if function is not None:
        query = query.where(columns.function == function)
    after: tuple[float, str] | None = None
    while True:
        part = query
        if after is not None:
            part = query.where(sa.tuple_(columns.ended_at, columns.id) > sa.tuple_(*after))
        with using(database), reading(database) as connection:
            rows = connection.execute(part).mappings().all()
        yield from map(to_execution, rows)
        if len(rows) < MOST_LISTED:
            return
        after = rows[-1]["ended_at"], rows[-1]["id"]


def _cursor(execution: Execution) -> str:
    place = json.dumps([execution.created_at, execution.id])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[float, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        created_at, id = json.loads(text)  # noqa: A001 - the field's name
        if isinstance(created_at, float) and isinstance(id, str):
            return created_at, id
    except (ValueError, TypeError, RecursionError, binascii.Error):
        pass
    raise InvalidRequestError("`before` is no place in a list", hint="take it from the last page")
