"""The tables of executions. A change here is a new `database.SCHEMA_VERSION`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

import sqlalchemy as sa

from sandbox.executions.model import Bookkeeping, Bytes, Execution, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA: Final = sa.MetaData()

# A literal is one of several texts; a mapping is a JSON document.
_COLUMN_TYPES: Final[Mapping[object, type[sa.types.TypeEngine[Any]]]] = {
    str: sa.Text,
    Literal: sa.Text,
    Mapping: sa.Text,
    bool: sa.Boolean,
    int: sa.Integer,
    Bytes: sa.BigInteger,
    float: sa.Double,
    Timestamp: sa.Double,
}


def _columns(model: type[Any]) -> Iterator[sa.Column[Any]]:
    """A column for each field of a dataclass: `id` is the key, `| None` makes it nullable."""
    types = get_type_hints(model, include_extras=True)
    for field in fields(model):
        kind = types[field.name]
        nullable = NoneType in get_args(kind)
        if nullable:
            kind, _ = get_args(kind)
        column_type = _COLUMN_TYPES.get(kind) or _COLUMN_TYPES[get_origin(kind)]
        yield sa.Column(field.name, column_type, nullable=nullable, primary_key=field.name == "id")


EXECUTIONS: Final = sa.Table("executions", METADATA, *_columns(Execution), *_columns(Bookkeeping))

_c = EXECUTIONS.c
# Those that wait for their turn, or for their next attempt. Written out, for the index below.
WAITING: Final = _c.status.in_([sa.literal_column("'queued'"), sa.literal_column("'retrying'")])

# Lists are by time of creation, newest first, within one of these or all.
sa.Index("executions_created", _c.created_at, _c.id)
sa.Index("executions_function", _c.function, _c.created_at)
sa.Index("executions_caller", _c.caller, _c.created_at)
sa.Index("executions_status", _c.status, _c.created_at)
# What is kept longest, and what ended since.
sa.Index("executions_ended", _c.ended_at)
sa.Index(
    "executions_due",
    _c.due_at,
    _c.input_bytes,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)

# The call that a background execution runs with, kept until its last attempt has ended.
INPUTS: Final = sa.Table(
    "execution_inputs",
    METADATA,
    sa.Column("id", sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)

# The servers that share the database. `beat` goes up while a server lives; `store` says whose
# store has the file that it holds a lock on.
SERVERS: Final = sa.Table(
    "servers",
    METADATA,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
