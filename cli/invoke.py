"""`sandbox invoke` and `sandbox run`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox.errors import ExitCode, InvalidManifestError

from .options import Common, RequestOptions, common_options, complete_function, request_options
from .output import print_json_text, print_log, print_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.docker import DockerEngine
    from sandbox.models import FunctionResponse, LogEntry
    from sandbox.settings import Settings


@click.command
@click.argument("name", shell_complete=complete_function)
@request_options
@common_options
def invoke(common: Common, options: RequestOptions, name: str) -> None:
    """Invoke a function.

    Its logs go to stderr as they come, then its output to stdout. Exits with 1 if it failed.
    """
    settings = common.settings()
    engine = _ask_engine_ahead(settings)
    from sandbox.facade import Sandbox  # noqa: PLC0415 - imported while the engine answers

    from .request import read_request  # noqa: PLC0415 - the same

    request = read_request(options, max_bytes=settings.limits.request)
    with closing(engine), Sandbox(common.functions, settings=settings, engine=engine) as sandbox:
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
    settings = common.settings()
    engine = _ask_engine_ahead(settings)
    from sandbox.discovery import function_from_path  # noqa: PLC0415 - see invoke
    from sandbox.facade import Sandbox  # noqa: PLC0415 - the same

    from .request import read_request  # noqa: PLC0415 - the same

    request = read_request(options, max_bytes=settings.limits.request)
    function, problems = function_from_path(path)
    if function is None:
        raise InvalidManifestError(
            f"{path} cannot be run: {problems[0]}",
            details={"problems": [str(problem) for problem in problems]},
        )
    with closing(engine), Sandbox(function.source, settings=settings, engine=engine) as sandbox:
        response = sandbox.run(function, **request, on_log=_log_printer(common))
        _finish(common, response)


def _ask_engine_ahead(settings: Settings) -> DockerEngine:
    """The engine, connecting already while the rest of the program is imported."""
    from sandbox.engine.docker import DockerEngine  # noqa: PLC0415 - brings the SDK

    engine = DockerEngine(host=settings.engine.host, timeout=settings.engine.timeout)
    engine.ask_ahead()
    return engine


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
