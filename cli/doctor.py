"""`sandbox doctor`: checks this machine, and attacks a container of it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from sandbox.doctor.attack import battery
from sandbox.doctor.checks import Check, examine
from sandbox.engine.docker.engine import DockerEngine
from sandbox.errors import ExitCode

from .options import Common, common_options
from .output import fit_terminal, print_json, printable

if TYPE_CHECKING:
    from sandbox.config.settings import Settings
    from sandbox.doctor.attack.judges import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command
@click.option(
    "--attack",
    is_flag=True,
    help="Try what a hostile function would try, with these settings; show which defences hold.",
)
@common_options
def doctor(common: Common, attack: bool) -> None:
    """Check that this machine can run functions safely.

    For each limit, a probe in a container like those of functions tries to exceed it. With
    --attack, a defence that cannot be checked counts as open. Exits with 3 if a check fails or a
    defence is open.
    """
    settings = common.settings()
    with closing(DockerEngine(settings.engine)) as engine:
        healthy = (_attack if attack else _check)(common, engine, settings)
    if not healthy:
        click.get_current_context().exit(ExitCode.PLATFORM)


def _check(common: Common, engine: DockerEngine, settings: Settings) -> bool:
    """Print all checks; whether none has failed."""
    checks = []
    for check in examine(engine, settings):
        checks.append(check)
        if not common.json:
            _print(check)
    healthy = all(check.status != "fail" for check in checks)
    if common.json:
        print_json({"healthy": healthy, "checks": [check.to_dict() for check in checks]})
    return healthy


def _print(check: Check) -> None:
    status = click.style(f"{check.status:<4}", fg=_COLOURS[check.status], bold=True)
    click.echo(f"{status}  {check.name:<16}  {printable(check.seen)}")
    if check.hint:
        click.echo(f"{'':24}{click.style('hint:', bold=True)} {printable(check.hint)}")


def _attack(common: Common, engine: DockerEngine, settings: Settings) -> bool:
    """Print the findings of all attacks; whether every defence held."""
    findings = []
    for finding in battery.attack(engine, settings):
        findings.append(finding)
        if not common.json:
            _print_finding(finding)
    held = all(finding.held for finding in findings)
    if common.json:
        print_json({"held": held, "findings": [finding.to_dict() for finding in findings]})
    else:
        count = sum(finding.held for finding in findings)
        click.echo(f"{count} of {len(findings)} held")
    return held


def _print_finding(finding: Finding) -> None:
    word, colour = ("held", "green") if finding.held else ("OPEN", "red")
    line = f"{word}  {finding.group:<14}  {finding.promise:<31}  {printable(finding.seen)}"
    if finding.held:
        line = fit_terminal(line)
    click.echo(click.style(word, fg=colour, bold=True) + line.removeprefix(word))
