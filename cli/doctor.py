"""`sandbox doctor`."""

from __future__ import annotations

import click

from sandbox.doctor import Check, examine
from sandbox.engine.docker import DockerEngine
from sandbox.errors import ExitCode

from .options import Common, common_options
from .output import print_json, printable

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command
@common_options
def doctor(common: Common) -> None:
    """Check that this machine can run functions safely.

    Limits are tried: a probe reaches for more than it may, in containers like those of functions.
    Exits with 3 if a check fails.
    """
    settings = common.settings()
    engine = DockerEngine(host=settings.engine.host, timeout=settings.engine.timeout)
    checks = []
    try:
        for check in examine(engine, settings):
            checks.append(check)
            if not common.json:
                _print(check)
    finally:
        engine.close()
    healthy = all(check.status != "fail" for check in checks)
    if common.json:
        print_json({"healthy": healthy, "checks": [check.to_dict() for check in checks]})
    if not healthy:
        click.get_current_context().exit(ExitCode.PLATFORM)


def _print(check: Check) -> None:
    status = click.style(f"{check.status:<4}", fg=_COLOURS[check.status], bold=True)
    click.echo(f"{status}  {check.name:<16}  {printable(check.seen)}")
    if check.mend:
        click.echo(f"{'':24}{click.style('hint:', bold=True)} {printable(check.mend)}")
