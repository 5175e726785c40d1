"""What goes with a process that serves functions: the local socket, and hot reload.

`sandbox watch` and `sandbox serve` share it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import click

from sandbox.deploy.validation import policy_problems
from sandbox.deploy.watcher import Polling, Reloaded
from sandbox.documents.problems import has_errors
from sandbox.errors import DeploymentFailedError, SandboxError
from sandbox.local.server import AddressInUseError, ClientLimits, Invoker, LocalServer
from sandbox.units import format_duration

from .output import dump, print_problem, print_warning, printable, short_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.documents.problems import Problem
    from sandbox.functions.function import Function
    from sandbox.local.address import Address
    from sandbox.sandbox import Sandbox

    from .options import Common


def open_socket(
    address: Address, sandbox: Sandbox, screen: Screen, *, invoker: Invoker | None = None
) -> LocalServer | None:
    """Serve `sandbox invoke` from now on, by `invoker` if given; None where that cannot be."""
    secrets = _stamp(sandbox.settings)
    try:
        return LocalServer(
            address,
            invoker or sandbox,
            limits=ClientLimits(request=sandbox.settings.limits.request),
            is_current=lambda: _stamp(sandbox.settings) == secrets,
        )
    except AddressInUseError:
        screen.warn("another process serves these functions already: `invoke` goes there")
    except OSError as error:
        screen.warn(f"`sandbox invoke` will not go through this process: {error}")
    return None


@contextlib.contextmanager
def served(address: Address, sandbox: Sandbox, screen: Screen) -> Iterator[None]:
    """Serve `sandbox invoke` meanwhile. What goes on besides goes on where that cannot be."""
    with open_socket(address, sandbox, screen) or contextlib.nullcontext():
        yield


def _stamp(settings: Settings) -> tuple[int, ...]:
    """What tells of a change of the secrets file, which was read at the start."""
    if settings.secrets_file is None:
        return ()
    try:
        status = settings.secrets_file.stat()
    except OSError:
        return (0,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def prepare(sandbox: Sandbox, function: Function, secrets: Mapping[str, str]) -> list[Problem]:
    """Build a function and make it ready; what stands in the way, and what the settings clamp."""
    problems = list(policy_problems(function, sandbox.settings, secrets))
    try:
        if not has_errors(problems):
            sandbox.prepare(function.name)
    except DeploymentFailedError as failure:
        message = f"{failure.message}\n{failure.log}".rstrip()
        problems.append(function.origin.problem(message, at="build"))
    except SandboxError as error:
        problems.append(function.origin.problem(error.message, error.hint or ""))
    return problems


def screen_for(common: Common) -> Screen:
    """Words for people, or with `--json` a JSON object on a line for each event."""
    return JsonScreen() if common.json else TextScreen(common.functions)


class Screen(Protocol):
    """How events are shown."""

    def show(self, event: Reloaded | Polling) -> None:
        """One event."""

    def warn(self, message: str) -> None:
        """Something that the user should know."""


class TextScreen:
    """For people: a line for each reload; problems as a compiler prints them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._first = True

    def show(self, event: Reloaded | Polling) -> None:
        """One event."""
        if isinstance(event, Polling):
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
        """A line of its own."""
        print_warning(message)


def _changes(event: Reloaded) -> str:
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

    def show(self, event: Reloaded | Polling) -> None:
        """One event."""
        if isinstance(event, Polling):
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
        """An event of its own."""
        self._print("warning", message=message, hint="")

    @staticmethod
    def _print(event: str, **fields: Any) -> None:
        click.echo(dump({"event": event, **fields}))
