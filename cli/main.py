"""The `sandbox` command: finds subcommands without importing them, and reports errors.

The command has to start fast. So this module imports nothing large but click, and a subcommand's
module only when that is called; such a module may import at its top what it needs.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from sandbox.errors import ExitCode, SandboxError

from .output import print_error, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

# Command → (module, attribute, short help). The help is repeated here so that `sandbox --help`
# imports none of the modules; a test compares the two.
COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "invoke": (".invoke", "invoke", "Invoke a function."),
    "run": (".invoke", "run", "Run one file as a function, without a project."),
    "list": (".functions", "list_functions", "List the functions."),
    "show": (".functions", "show", "Show a function: its manifest and its limits."),
    "validate": (".functions", "validate", "Check functions against manifest rules and settings."),
    "new": (".new", "new", "Create a function to begin with."),
    "watch": (".watch", "watch", "Reload functions as they change; serve `sandbox invoke`."),
    "serve": (".serve", "serve", "Serve the functions over HTTP."),
    "keys": (".keys", "keys", "Create, list and revoke the API keys of `sandbox serve`."),
    "build": (".build", "build", "Build functions and install their dependencies."),
    "bundles": (".bundles", "bundles", "List and remove bundles: code, dependencies, builds."),
    "executions": (".executions", "executions", "Show, cancel and retry executions on record."),
    "logs": (".logs", "logs", "Print the logs of executions that have ended."),
    "images": (".images", "images", "Build, list and remove the runtimes' images."),
    "doctor": (".doctor", "doctor", "Check that this machine can run functions safely."),
    "completion": (".completion", "completion", "Print the shell's completion script."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        gc.disable()  # importing makes no garbage
        try:
            command = getattr(import_module(module, __package__), attribute)
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] in ("sandbox", "sandbox_cli"):
                raise
            raise click.UsageError(
                f"`sandbox {cmd_name}` needs the package {missing.name}: "
                "pip install 'alyx-sandbox[serve]'"
            ) from None
        finally:
            gc.enable()
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            click.shell_completion.CompletionItem(name, help=text)
            for name, (_, _, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn exceptions into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except SandboxError as error:
            _report(ctx, error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the edge of the process
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # nobody reads the output any more; click ends without a message
            if os.environ.get("SANDBOX_DEBUG"):
                traceback.print_exc()
            _report(ctx, _unexpected(error))
            ctx.exit(ExitCode.PLATFORM)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="alyx-sandbox", message="%(prog)s %(version)s")
def cli() -> None:
    """Run Alyx functions, each invocation in a container of its own."""


def _report(ctx: click.Context, error: SandboxError) -> None:
    """Print an error: as a document on stdout with `--json`, else as text on stderr."""
    if ctx.meta.get("sandbox.json"):
        print_json({"success": False, "error": error.to_dict()})
    else:
        print_error(error.code, error.message, hint=error.hint, details=_worth_reading(error))


def _worth_reading(error: SandboxError) -> dict[str, Any]:
    """The details that are not part of the message already."""
    problems = [
        item for item in error.details.get("problems", ()) if str(item) not in error.message
    ]
    return {
        "problems": "\n".join(map(str, problems)),
        "log": error.details.get("log", ""),
    }


def _unexpected(error: Exception) -> SandboxError:
    return SandboxError(
        f"a defect of the sandbox: {type(error).__name__}: {error}",
        hint="please report it, with the trace that SANDBOX_DEBUG=1 shows",
    )


def main() -> NoReturn:
    """The console script."""
    # A supervisor's SIGTERM ends a command as Ctrl-C does: containers are removed on the way out.
    # SIGINT stays as the shell has set it: a background job ignores the Ctrl-C for the foreground.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Imports make many objects and no garbage; to collect meanwhile costs a tenth of the start.
    gc.set_threshold(100_000)
    # To look for plugins, pydantic reads the metadata of every installed distribution.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        cli.main(prog_name="sandbox")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.PLATFORM
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Everything is closed by now; a regular shutdown of the interpreter takes 50 ms more.
    os._exit(code)
