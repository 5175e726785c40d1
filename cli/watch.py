"""`sandbox watch`: hot reload, and the process that `sandbox invoke` goes through meanwhile."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Protocol

import click

from sandbox.builds.failure import BuildFailedError
from sandbox.errors import SandboxError
from sandbox.facade import Sandbox
from sandbox.launcher import BootFailedError
from sandbox.local.address import find_address
from sandbox.local.server import AddressInUseError, Server
from sandbox.problems import has_errors
from sandbox.secrets import load_secrets
from sandbox.units import format_duration
from sandbox.validation import policy_problems
from sandbox.watcher import Polling, Reloaded, Watcher

from .options import Common, common_options
from .output import dump, print_problem, print_warning, printable, short_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sandbox.function import Function
    from sandbox.local.address import Address
    from sandbox.problems import Problem
    from sandbox.settings import Settings


@click.command
@click.option(
    "--poll",
    is_flag=True,
    help="Look at files twice a second: for file systems that tell of no changes.",
)
@common_options
def watch(common: Common, poll: bool) -> None:
    """Reload functions as they change; serve `sandbox invoke`.

    Prints what each reload changed, and what is wrong. While it runs, `sandbox invoke` with the
    same functions and settings goes through it. Ctrl-C ends it.
    """
    screen: _Screen = _Lines() if common.json else _Words(common.functions)
    # Before the settings are read: if they change in between, no client finds us.
    address = find_address(common.functions, common.settings_file, common.environment)
    settings = common.settings()
    secrets = load_secrets(settings.secrets_file)
    stop = threading.Event()
    try:
        with (
            Sandbox(common.functions, settings=settings) as sandbox,
            _served(address, sandbox, screen),
        ):
            watcher = Watcher(
                sandbox,
                common.functions,
                stop=stop,
                prepare=lambda function: _prepare(sandbox, function, secrets),
                polling=poll,
            )
            for event in watcher.events():
                screen.show(event)
    except KeyboardInterrupt:
        stop.set()


@contextlib.contextmanager
def _served(address: Address, sandbox: Sandbox, screen: _Screen) -> Iterator[None]:
    """Serve `sandbox invoke` meanwhile. Watching goes on where that cannot be."""
    secrets = _stamp(sandbox.settings)
    try:
        server = Server(
            address,
            sandbox.invoke,
            max_request=sandbox.settings.limits.request,
            is_current=lambda: _stamp(sandbox.settings) == secrets,
        )
    except AddressInUseError:
        screen.warn("another `sandbox watch` serves these functions already: `invoke` goes there")
        yield
        return
    except OSError as error:
        screen.warn(f"`sandbox invoke` will not go through this process: {error}")
        yield
        return
    with server:
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


def _prepare(sandbox: Sandbox, function: Function, secrets: Mapping[str, str]) -> list[Problem]:
    """Build a function and make it ready; what stands in the way, and what the settings clamp."""
    problems = list(policy_problems(function, sandbox.settings, secrets))
    try:
        if not has_errors(problems):
            sandbox.prepare(function.name)
    except (BuildFailedError, BootFailedError) as failure:
        message = f"{failure.message}\n{failure.log}".rstrip()
        problems.append(function.origin.problem(message, at="build"))
    except SandboxError as error:
        problems.append(function.origin.problem(error.message, error.hint or ""))
    return problems


class _Screen(Protocol):
    """How events are shown."""

    def show(self, event: Reloaded | Polling) -> None:
        """One event."""

    def warn(self, message: str) -> None:
        """Something that the user should know."""


class _Words:
    """For people: a line for each reload; problems as a compiler prints them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._first = True

    def show(self, event: Reloaded | Polling) -> None:
        if isinstance(event, Polling):
            self.warn(event.reason)
            click.echo(f"  hint: {event.mend}", err=True)
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


def _changes(event: Reloaded) -> str:
    """`new greet 3f2a9c1b0d4e, changed hello f23868c3d732, removed old`."""
    words = [
        f"{label} {name} {short_digest(event.state.versions[name].digest or '')}".rstrip()
        for label, names in (("new", event.added), ("changed", event.changed))
        for name in names
    ]
    words += [f"removed {name}" for name in event.removed]
    return ", ".join(words) or "no function changed"


class _Lines:
    """For programs: one JSON object on a line for each event."""

    def __init__(self) -> None:
        self._first = True

    def show(self, event: Reloaded | Polling) -> None:
        if isinstance(event, Polling):
            self._print("warning", message=event.reason, hint=event.mend)
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

    @staticmethod
    def _print(event: str, **fields: Any) -> None:
        click.echo(dump({"event": event, **fields}))
