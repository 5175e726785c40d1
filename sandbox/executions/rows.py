"""Executions and calls as rows of the database, and back. Pure."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Literal

from sandbox.call import Call
from sandbox.executions.log_tail import storable
from sandbox.executions.model import Bookkeeping, Execution
from sandbox.executions.tables import EXECUTIONS
from sandbox.ids import new_request_id
from sandbox.models import dump_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

_FIELDS: Final = tuple(field.name for field in fields(Execution))
# The fields that a call and its execution share, and those that only the call has. A call's
# `request_id` is the execution's `id`.
_SHARED: Final = tuple(field.name for field in fields(Call) if field.name in _FIELDS)
_DOCUMENT: Final = tuple(
    field.name for field in fields(Call) if field.name not in (*_SHARED, "request_id")
)
# Lists leave out the response, which may be large.
LISTED: Final = tuple(column for column in EXECUTIONS.c if column.name != "response")


def to_row(execution: Execution, bookkeeping: Bookkeeping | None = None) -> dict[str, Any]:
    """The columns of an execution; those of its bookkeeping too, if it is given."""
    row = {name: _stored(getattr(execution, name)) for name in _FIELDS}
    return row if bookkeeping is None else row | vars(bookkeeping)


def _stored(value: Any) -> Any:
    """A field's value as its column takes it."""
    if isinstance(value, str):
        return storable(value)
    return dump_json(value) if isinstance(value, dict) else value


def to_execution(row: sa.RowMapping | Mapping[str, Any]) -> Execution:
    """The execution in a row, without a `response` if the row has none."""
    values = {name: row[name] for name in _FIELDS if name in row}
    if values["status"] == "queued" or values["status"] == "running":
        values["due_at"] = None  # the table has the position in the queue there
    if isinstance(values.get("response"), str):
        values["response"] = json.loads(values["response"])
    return Execution(**values)


def new_execution(call: Call, *, status: Literal["queued", "running"], now: float) -> Execution:
    """The execution of a call, as it begins at the time `now`."""
    files = sum(file["size"] for file in call.files)
    running = status == "running"
    return Execution(
        **_shared(call),
        id=call.request_id or new_request_id(),
        status=status,
        attempts=1 if running else 0,
        created_at=now,
        started_at=now if running else None,
        input_bytes=files + (len(dump_json(call.input).encode()) if call.input else 2),
    )


def to_document(call: Call) -> str:
    """The fields of a call that its execution does not have, as JSON text."""
    return dump_json({name: getattr(call, name) for name in _DOCUMENT})


def to_call(execution: Execution, document: str) -> Call:
    """The call that an execution runs."""
    return Call(**_shared(execution), request_id=execution.id, **json.loads(document))


def _shared(value: Call | Execution) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _SHARED}
