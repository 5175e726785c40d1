"""`sandbox build`: builds functions and installs their dependencies before they are invoked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from sandbox.errors import BuildFailedError, Code, ExitCode, SandboxError
from sandbox.sandbox import Sandbox
from sandbox.units import format_duration

from .options import Common, common_options, complete_function
from .output import print_error, print_json, print_problem, short_digest

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_function)
@common_options
def build(common: Common, names: tuple[str, ...]) -> None:
    """Build functions and install their dependencies.

    Builds the functions NAME, or all. Of a function, only its build runs. An unchanged function
    is not built again.
    """
    results: list[dict[str, Any]] = []
    with Sandbox(common.functions, settings=common.settings(), warm=False) as sandbox:
        if not common.json and not names:
            for problem in sandbox.problems:
                print_problem(problem)
        for name in names or sorted(sandbox.functions):
            result = _build(sandbox, name)
            results.append(result)
            if not common.json:
                _print(result)
    if common.json:
        print_json(results)
    failed = [result["error"] for result in results if not result["success"]]
    if failed:
        click.get_current_context().exit(max(error["exit_code"] for error in failed))


def _build(sandbox: Sandbox, name: str) -> dict[str, Any]:
    """Build one function; the result as a document."""
    started = time.monotonic()
    error: Mapping[str, Any]
    try:
        version = sandbox.build(name)
    except BuildFailedError as failure:
        error = {
            "code": Code.BUILD_FAILED,
            "message": failure.message,
            "details": {"log": failure.log},
            "exit_code": ExitCode.FUNCTION_FAILED,
        }
    except SandboxError as failure:
        error = failure.to_dict() | {"exit_code": failure.exit_code}
    else:
        seconds = round(time.monotonic() - started, 3)
        return {"function": name, "success": True, "version": version, "seconds": seconds}
    return {"function": name, "success": False, "error": error}


def _print(result: Mapping[str, Any]) -> None:
    if result["success"]:
        took = format_duration(result["seconds"])
        click.echo(f"{result['function']}  {short_digest(result['version'])}  {took}")
        return
    error = result["error"]
    details = dict(error["details"])
    hint = details.pop("hint", None)
    log = {"log": details["log"]} if details.get("log") else {}
    print_error(error["code"], f"{result['function']}: {error['message']}", hint=hint, details=log)
