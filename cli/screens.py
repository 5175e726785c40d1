"""Shows the events of hot reload, for `sandbox watch` and `sandbox serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sandbox.deploy.reload_events import PollingEvent
from sandbox.units import format_duration

from .output import dump, print_problem, print_warning, printable, short_digest

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.deploy.reload_events import ReloadEvent, WatchEvent

    from .options import Common


class TextScreen:
    """For people: a line for each reload; problems as a compiler prints them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._first = True

    def show(self, event: WatchEvent) -> None:
        if isinstance(event, PollingEvent):
            self.warn(event.reason)
            click.echo(f"  hint: {event.hint}", err=True)
            return
        for problem in event.problems:
            print_problem(problem)
        for problem in event.mended:
            label = click.style("mended:", fg="green", bold=True)
            click.echo(f"{label} {printable(f'{problem.where}: {problem.message}')}", err=True)
        took = format_duration(round(event.seconds, 3))
        if self._first:
            count = len(event.state.versions)
            functions = f"{count} function{'' if count == 1 else 's'}"
            what = f"watching {printable(str(self._directory))}: {functions}"
        else:
            what = f"reloaded: {_changes(event)}"
        click.echo(f"{what} {click.style(f'in {took}', dim=True)}")
        self._first = False

    def warn(self, message: str) -> None:
        print_warning(message)

    def announce(self, url: str) -> None:
        click.echo(f"serving {printable(str(self._directory))} at {url}")


def _changes(event: ReloadEvent) -> str:
    """`new greet 3f2a9c1b0d4e, changed hello f23868c3d732, removed old`."""
    words = [
        f"{label} {name} {short_digest(event.state.versions[name].digest or '')}".rstrip()
        for label, names in (("new", event.added), ("changed", event.changed))
        for name in names
    ]
    words += [f"removed {name}" for name in event.removed]
    return ", ".join(words) or "no function changed"


class JsonScreen:
    """For programs: one JSON object on a line for each event."""

    def __init__(self) -> None:
        self._first = True

    def show(self, event: WatchEvent) -> None:
        if isinstance(event, PollingEvent):
            self._print("warning", message=event.reason, hint=event.hint)
            return
        versions = event.state.versions
        self._print(
            "ready" if self._first else "reloaded",
            seconds=round(event.seconds, 6),
            added={name: versions[name].digest for name in event.added},
            changed={name: versions[name].digest for name in event.changed},
            removed=list(event.removed),
            problems=[problem.to_dict() for problem in event.problems],
            mended=[problem.to_dict() for problem in event.mended],
        )
        self._first = False

    def warn(self, message: str) -> None:
        self._print("warning", message=message, hint="")

    def announce(self, url: str) -> None:
        self._print("listening", url=url)

    @staticmethod
    def _print(event: str, **fields: Any) -> None:
        click.echo(dump({"event": event, **fields}))


Screen = TextScreen | JsonScreen


def screen_for(common: Common) -> Screen:
    """Text for people, or with `--json` one JSON object on a line for each event."""
    return JsonScreen() if common.json else TextScreen(common.functions)
