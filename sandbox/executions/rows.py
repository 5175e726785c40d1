"""Executions and calls as rows of the database, and back. Pure."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from sandbox.executions.log_tail import storable
from sandbox.executions.model import Call, Execution
from sandbox.executions.tables import EXECUTIONS
from sandbox.models import FileUpload, dump_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

_FIELDS: Final = tuple(field.name for field in fields(Execution))
_TEXTS: Final = ("id", "function", "caller", "version", "code", "message", "log_tail")
_REST: Final = {
    "asynchronous": False,
    "retries": 0,
    "waits": 0,
    "owner": None,
    "claim": 0,
    "cancel_asked": False,
}
# What lists leave out: it may be large.
LISTED: Final = tuple(column for column in EXECUTIONS.c if column.name != "response")


def to_row(execution: Execution, **rest: Any) -> dict[str, Any]:
    """All columns of an execution; `rest` are those that `Execution` does not have."""
    row = {name: getattr(execution, name) for name in _FIELDS}
    for name in _TEXTS:
        if row[name] is not None:
            row[name] = storable(row[name])
    if execution.response is not None:
        row["response"] = dump_json(execution.response)
    return {**row, **_REST, **rest}


def to_execution(row: sa.RowMapping | Mapping[str, Any]) -> Execution:
    """The execution in a row; without `response` where that was not read."""
    values = {name: row[name] for name in _FIELDS if name in row}
    if values["status"] == "queued" or values["status"] == "running":
        values["due_at"] = None  # in the table it is the place in the queue
    if isinstance(values.get("response"), str):
        values["response"] = json.loads(values["response"])
    return Execution(**values)


def input_bytes(call: Call) -> int:
    """The size of a call's input, uploaded files included."""
    files = sum(file.size for file in call.files)
    return files + (len(dump_json(call.input).encode()) if call.input else 2)


def to_document(call: Call) -> str:
    """What a call is to run with, as JSON text."""
    return dump_json(
        {
            "input": call.input,
            "files": [file.model_dump() for file in call.files],
            "auth": call.auth,
            "timeout": call.timeout,
            "traceparent": call.traceparent,
        }
    )


def to_call(execution: Execution, document: str) -> Call:
    """The call that an execution runs."""
    values = json.loads(document)
    return Call(
        function=execution.function,
        input=values["input"],
        files=tuple(FileUpload.model_validate(file) for file in values["files"]),
        auth=values["auth"],
        timeout=values["timeout"],
        caller=execution.caller,
        trigger=execution.trigger,
        request_id=execution.id,
        traceparent=values["traceparent"],
    )
