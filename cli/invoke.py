"""`sandbox invoke` and `sandbox run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox.errors import ExitCode, InvalidManifestError

from .options import Common, RequestOptions, common_options, complete_function, request_options
from .output import print_json_text, print_log, print_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.models import FunctionResponse, LogEntry


@click.command
@click.argument("name", shell_complete=complete_function)
@request_options
@common_options
def invoke(common: Common, options: RequestOptions, name: str) -> None:
    """Invoke a function.

    Its logs go to stderr as they come, then its output to stdout. Exits with 1 if it failed.
    """
    from sandbox.facade import Sandbox  # noqa: PLC0415 - not needed for help

    from .request import read_request  # noqa: PLC0415 - the same

    settings = common.settings()
    request = read_request(options, max_bytes=settings.limits.request)
    with Sandbox(common.functions, settings=settings) as sandbox:
        response = sandbox.invoke(name, **request, on_log=_log_printer(common))
        _finish(common, response)


@click.command
@click.argument("path", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@request_options
@common_options
def run(common: Common, options: RequestOptions, path: Path) -> None:
    """Run one file as a function, without a project.

    FILE may also be a function's directory. Runtime and interface are detected.
    """
    from sandbox.discovery import function_from_path  # noqa: PLC0415 - not needed for help
    from sandbox.facade import Sandbox  # noqa: PLC0415 - the same

    from .request import read_request  # noqa: PLC0415 - the same

    settings = common.settings()
    request = read_request(options, max_bytes=settings.limits.request)
    function, problems = function_from_path(path)
    if function is None:
        raise InvalidManifestError(
            f"{path} cannot be run: {problems[0]}",
            details={"problems": [str(problem) for problem in problems]},
        )
    with Sandbox(function.source, settings=settings) as sandbox:
        response = sandbox.run(function, **request, on_log=_log_printer(common))
        _finish(common, response)


def _log_printer(common: Common) -> Callable[[LogEntry], None] | None:
    """Logs go to stderr as they come; with `--json` they are in the document."""
    return None if common.json else print_log


def _finish(common: Common, response: FunctionResponse) -> None:
    """Print the response at once: its container is removed behind it."""
    if common.json:
        print_json_text(response.to_json())
    else:
        print_response(response)
    if not response.success:
        click.get_current_context().exit(ExitCode.FUNCTION_FAILED)
