"""`sandbox invoke` and `sandbox run`.

If a process such as `sandbox watch` serves the same functions with the same settings, an invocation
goes through its socket, and little is imported here. The output is the same either way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox.errors import ExitCode, InvalidManifestError, InvalidRequestError

from .options import Common, RequestOptions, common_options, complete_function, request_options
from .output import print_json_text, print_log, print_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.call import Call
    from sandbox.engine.steps import Steps
    from sandbox.local.client import Connection
    from sandbox.models import FunctionResponse, LogEntry


@click.command
@click.argument("name", shell_complete=complete_function)
@request_options
@click.option("--local", is_flag=True, help="Run it in this process, even if `watch` runs.")
@common_options
def invoke(common: Common, options: RequestOptions, name: str, local: bool) -> None:
    """Invoke a function.

    Its logs go to stderr as they come, then its output to stdout. Exits with 1 if it failed.

    If `sandbox watch` or `serve` runs for the same functions and settings, that process invokes:
    it saves the time of a start.
    """
    from .request import read_call  # noqa: PLC0415 - not needed for help

    call = None
    served = None if local else _connect(common)
    if served is not None:
        with served:
            call = read_call(name, options, max_bytes=served.max_request)
            text = _invoke_through(served, common, call)
        if text is not None:
            _finish(common, text)
            return

    from sandbox.sandbox import Sandbox  # noqa: PLC0415 - not needed where a process serves

    settings = common.settings()
    call = call or read_call(name, options, max_bytes=settings.limits.request)
    _check(call)
    with Sandbox(common.functions, settings=settings, warm=False) as sandbox:
        _run(common, sandbox.steps(call, on_log=_log_printer(common)))


@click.command
@click.argument("path", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@request_options
@common_options
def run(common: Common, options: RequestOptions, path: Path) -> None:
    """Run one file as a function, without a project.

    FILE may also be a function's directory. Runtime and interface are detected.
    """
    from sandbox.functions.discovery import function_from_path  # noqa: PLC0415 - not needed for help
    from sandbox.sandbox import Sandbox  # noqa: PLC0415 - the same

    from .request import read_call  # noqa: PLC0415 - the same

    settings = common.settings()
    call = read_call(path.name, options, max_bytes=settings.limits.request)
    _check(call)
    function, problems = function_from_path(path)
    if function is None:
        raise InvalidManifestError(
            f"{path} cannot be run: {problems[0]}",
            details={"problems": [str(problem) for problem in problems]},
        )
    with Sandbox(function.source, settings=settings, warm=False) as sandbox:
        _run(common, sandbox.steps(call, function=function, on_log=_log_printer(common)))


def _connect(common: Common) -> Connection | None:
    """A connection to the process that serves these functions; None if there is none."""
    from sandbox.local.address import find_address  # noqa: PLC0415 - not needed for help

    address = find_address(common.functions, common.settings_file, common.environment)
    if not address.socket.exists():
        return None

    from sandbox.local.client import connect  # noqa: PLC0415 - not needed without a socket

    return connect(address)


def _invoke_through(served: Connection, common: Common, call: Call) -> str | None:
    """The response document, as text; None if the other process has not taken the call."""
    from sandbox.local.client import NotTakenError  # noqa: PLC0415 - not needed without a socket

    from .request import auth_refused  # noqa: PLC0415 - not needed for help

    def on_log(entry: dict[str, Any]) -> None:
        if not common.json:
            print_log(entry)

    try:
        return served.invoke(call, on_log=on_log)
    except NotTakenError:
        return None
    except InvalidRequestError as error:
        raise (auth_refused(error) if error.message.startswith("auth.") else error) from None


def _check(call: Call) -> None:
    """Check a call before anything is started for it."""
    from sandbox.protocol.request import check_call  # noqa: PLC0415 - brings pydantic

    from .request import auth_refused  # noqa: PLC0415 - not needed for help

    try:
        check_call(call)
    except InvalidRequestError as error:
        raise auth_refused(error) from None


def _run(common: Common, steps: Steps[FunctionResponse]) -> None:
    """Run an invocation in this process, and print its response."""
    from sandbox.engine.steps import run_steps  # noqa: PLC0415 - not needed where a process serves

    _finish(common, run_steps(steps).to_json())


def _log_printer(common: Common) -> Callable[[LogEntry], None] | None:
    """Logs go to stderr as they come; with `--json`, they are only in the document."""
    return None if common.json else lambda entry: print_log(entry.to_dict())


def _finish(common: Common, text: str) -> None:
    """Print the response document, and exit with 1 if the function has failed."""
    response = json.loads(text)
    if common.json:
        print_json_text(text)
    else:
        print_response(response)
    if not response["success"]:
        click.get_current_context().exit(ExitCode.FUNCTION_FAILED)
