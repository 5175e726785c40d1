"""The tables of executions. A change here is a new `database.SCHEMA_VERSION`."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()

# Columns that `Execution` has too go by its names. The others:
# - `asynchronous`: nobody waits for it; it is on record from the beginning and is never dropped.
# - `retries`: how many attempts may follow the first. `waits`: how often in a row the platform
#   could not run it, which is no attempt.
# - `owner`: the server that runs it. `claim` counts how often one took it: what a server writes
#   of an execution holds only while the claim is still its own.
# - `cancel_asked`: whoever runs it is to cancel it.
EXECUTIONS: Final = sa.Table(
    "executions",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("function", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("code", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("due_at", sa.Double),
    sa.Column("queue_ms", sa.Double),
    sa.Column("boot_ms", sa.Double),
    sa.Column("run_ms", sa.Double),
    sa.Column("cpu_ms", sa.Double),
    sa.Column("peak_memory_bytes", sa.BigInteger),
    sa.Column("cold", sa.Boolean),
    sa.Column("input_bytes", sa.BigInteger, nullable=False),
    sa.Column("output_bytes", sa.BigInteger, nullable=False),
    sa.Column("log_tail", sa.Text, nullable=False),
    sa.Column("response", sa.Text),
    sa.Column("asynchronous", sa.Boolean, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("waits", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("claim", sa.Integer, nullable=False),
    sa.Column("cancel_asked", sa.Boolean, nullable=False),
)

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

# What an execution that nobody waits for is to run with, until it has ended for good.
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
