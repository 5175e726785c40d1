"""`sandbox executions`: shows, cancels and retries executions on record."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, get_args

import click

from sandbox.errors import InvalidRequestError
from sandbox.executions.model import ExecutionQuery, Status

from .options import Common, common_options, complete_function
from .output import print_fields, print_json, print_table, short_digest
from .record import record

if TYPE_CHECKING:
    import sqlalchemy as sa

    from sandbox.executions.model import Execution

# So that a line has 80 columns.
_NAME_WIDTH: Final = 12


@click.group
def executions() -> None:
    """Show, cancel and retry executions on record.

    Reads the server's database, which the settings name.
    """


@executions.command("list")
@click.argument("name", required=False, shell_complete=complete_function)
@click.option(
    "--status", type=click.Choice(get_args(Status)), help="Only executions with this status."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Number of executions at most.",
)
@click.option(
    "--before", metavar="PLACE", help="Continue an earlier list: its `next`, with --json."
)
@common_options
def list_executions(
    common: Common, name: str | None, status: Status | None, limit: int, before: str | None
) -> None:
    """List the executions of the function NAME, or all, newest first."""
    wanted = ExecutionQuery(function=name, status=status, limit=limit, before=before)
    with record(common) as database:
        from sandbox.executions.queries import find_page  # noqa: PLC0415 - an optional extra

        page = find_page(database, wanted)
    if common.json:
        found = [asdict(execution) for execution in page.executions]
        print_json({"executions": found, "next": page.next})
        return
    now = time.time()
    print_table(
        ("ID", "FUNCTION", "STATUS", "AGE", "CODE"),
        [
            (
                execution.id,
                _cut(execution.function),
                execution.status,
                _age(now - execution.created_at),
                execution.code or "",
            )
            for execution in page.executions
        ],
    )
    if page.next is not None:
        click.echo("there are more: --limit shows them", err=True)


@executions.command
@click.argument("id")
@common_options
def show(common: Common, id: str) -> None:  # noqa: A002 - the option's name
    """Show an execution: status, figures, the end of its log."""
    with record(common) as database:
        execution = _find(database, id)
    if common.json:
        print_json(asdict(execution))
        return
    print_fields((name, value) for name, value in _fields(execution) if value)
    if execution.log_tail:
        click.echo()
        print_fields([("log", execution.log_tail)])


@executions.command
@click.argument("id")
@common_options
def cancel(common: Common, id: str) -> None:  # noqa: A002 - the option's name
    """Cancel an execution: if it waits, it never runs; if it runs, it is killed within seconds."""
    with record(common) as database:
        from sandbox.executions.transitions import (  # noqa: PLC0415 - an optional extra
            ask_cancel,
            cancel_waiting,
        )

        if not cancel_waiting(database, id, now=time.time()) and not ask_cancel(database, id):
            raise InvalidRequestError(f"the execution {id} is {_find(database, id).status} already")
        execution = _find(database, id)
    _print_status(common, execution)


@executions.command
@click.argument("id")
@common_options
def retry(common: Common, id: str) -> None:  # noqa: A002 - the option's name
    """Run a dead execution again, with the same input and as many attempts as a new one."""
    with record(common) as database:
        from sandbox.executions import transitions  # noqa: PLC0415 - SQLAlchemy is slow to import

        if not transitions.retry(database, id, now=time.time()):
            status = _find(database, id).status
            raise InvalidRequestError(
                f"the execution {id} is {status}; only a dead one can be retried"
            )
        execution = _find(database, id)
    _print_status(common, execution)


def _find(database: sa.Engine, id: str) -> Execution:  # noqa: A002 - the field's name
    from sandbox.executions.queries import find  # noqa: PLC0415 - an optional extra

    execution = find(database, id)
    if execution is None:
        raise InvalidRequestError(f"there is no execution {id}")
    return execution


def _print_status(common: Common, execution: Execution) -> None:
    if common.json:
        print_json(asdict(execution))
    else:
        print_fields([(execution.id, execution.status)])


def _fields(execution: Execution) -> list[tuple[str, str]]:
    figures = {
        "queue": execution.queue_ms,
        "boot": execution.boot_ms,
        "run": execution.run_ms,
        "cpu": execution.cpu_ms,
    }
    shown = (f"{name} {value:.0f} ms" for name, value in figures.items() if value is not None)
    return [
        ("id", execution.id),
        ("function", execution.function),
        ("version", short_digest(execution.version or "")),
        ("caller", f"{execution.caller}, by {execution.trigger}"),
        ("status", execution.status),
        ("code", execution.code or ""),
        ("message", execution.message or ""),
        ("attempts", str(execution.attempts)),
        ("created", _moment(execution.created_at)),
        ("started", _moment(execution.started_at)),
        ("ended", _moment(execution.ended_at)),
        ("due", _moment(execution.due_at)),
        ("times", ", ".join(shown)),
        ("input", f"{execution.input_bytes} bytes"),
        ("output", f"{execution.output_bytes} bytes" if execution.ended else ""),
    ]


def _moment(at: float | None) -> str:
    if at is None:
        return ""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _age(seconds: float) -> str:
    for unit, size, most in (("s", 1, 90), ("m", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < most:
            return f"{max(0, seconds) / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
