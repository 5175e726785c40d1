"""`sandbox logs`: prints the logs of executions on record."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from sandbox.executions.model import ExecutionQuery

from .options import Common, common_options, complete_function
from .output import dump, print_json, printable
from .record import record

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from sandbox.executions.model import Execution

_POLL_SECONDS: Final = 1.0
# A server may record the end of an execution this much late.
_LATE_SECONDS: Final = 10.0
_MOST_SEEN: Final = 100_000


@click.command
@click.argument("name", required=False, shell_complete=complete_function)
@click.option("-f", "--follow", is_flag=True, help="Go on: print each execution when it ends.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(0, 1000),
    default=10,
    show_default=True,
    help="Begin with this number of past executions.",
)
@common_options
def logs(common: Common, name: str | None, follow: bool, last: int) -> None:
    """Print the logs of executions that have ended.

    Prints those of the function NAME, or all. Only the end of each log is on record. With --follow
    and --json, each line is the JSON document of one execution.
    """
    with record(common) as database:
        ended = _last(database, name, last)
        if common.json and not follow:
            print_json([_document(execution) for execution in ended])
            return
        for execution in ended:
            _print(execution, as_json=common.json)
        if follow:
            for execution in _new(database, name, ended):
                _print(execution, as_json=common.json)


def _last(database: sa.Engine, name: str | None, count: int) -> list[Execution]:
    from sandbox.executions.queries import find_page  # noqa: PLC0415 - an optional extra

    if count == 0:
        return []
    page = find_page(database, ExecutionQuery(function=name, limit=1000))
    ended = [execution for execution in page.executions if execution.ended]
    return sorted(ended[:count], key=lambda execution: execution.ended_at or 0.0)


def _new(database: sa.Engine, name: str | None, seen: list[Execution]) -> Iterator[Execution]:
    """Executions when they end, except the `seen` ones, until Ctrl-C."""
    from sandbox.executions.queries import find_ended  # noqa: PLC0415 - an optional extra

    begun = time.time()
    known: OrderedDict[str, None] = OrderedDict.fromkeys(execution.id for execution in seen)
    since = begun
    while True:
        for execution in find_ended(database, since=since - _LATE_SECONDS, function=name):
            since = max(since, execution.ended_at or 0.0)
            if execution.id in known or (execution.ended_at or 0.0) < begun:
                continue
            known[execution.id] = None
            yield execution
        while len(known) > _MOST_SEEN:
            known.popitem(last=False)
        time.sleep(_POLL_SECONDS)


def _print(execution: Execution, *, as_json: bool) -> None:
    if as_json:
        click.echo(dump(_document(execution)))
        return
    colour = "green" if execution.status == "succeeded" else "red"
    code = f" {printable(execution.code)}" if execution.code else ""
    outcome = click.style(f"{execution.status}{code}", fg=colour)
    click.echo(f"{click.style(execution.id, dim=True)} {printable(execution.function)} {outcome}")
    if execution.message:
        click.echo(f"  {printable(execution.message)}".replace("\n", "\n  "))
    for line in printable(execution.log_tail).split("\n") if execution.log_tail else ():
        click.echo(f"  {line}")


def _document(execution: Execution) -> dict[str, Any]:
    document = asdict(execution)
    return {
        name: document[name]
        for name in ("id", "function", "status", "code", "message", "ended_at", "log_tail")
    }
