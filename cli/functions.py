"""`sandbox list`, `sandbox show` and `sandbox validate`: look at functions, run none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sandbox.deploy.validation import source_digest, version
from sandbox.deploy.validation import validate as find_problems
from sandbox.documents.problems import has_errors
from sandbox.errors import ExitCode, PolicyRefusedError
from sandbox.functions.discovery import discover
from sandbox.functions.registry import Registry
from sandbox.policy.limits import effective_policy
from sandbox.store.cold_functions import ColdFunctions
from sandbox.units import format_duration, format_size

from .options import Common, common_options, complete_function
from .output import (
    dump,
    print_fields,
    print_json,
    print_problem,
    print_table,
    print_warning,
    short_digest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.deploy.validation import Checked
    from sandbox.documents.problems import Problem
    from sandbox.functions.function import Function
    from sandbox.functions.manifest import Hook, Manifest
    from sandbox.policy.limits import Policy


_LIMIT_NAMES: Final = ("TIMEOUT", "MEMORY", "CPU", "PIDS", "/TMP", "RUNTIME_CLASS")


@click.command("list")
@common_options
def list_functions(common: Common) -> None:
    """List the functions.

    Problems go to stderr. Problems of one function do not affect the others.
    """
    found = discover(common.functions)
    if common.json:
        print_json(
            {
                "functions": [_summary(function) for function in found.functions],
                "problems": [problem.to_dict() for problem in found.problems],
            }
        )
    else:
        if found.functions:
            print_table(
                ("NAME", "RUNTIME", "INTERFACE", "DESCRIPTION"),
                [
                    (item.name, item.runtime, item.interface, item.manifest.description)
                    for item in found.functions
                ],
            )
        elif not found.problems:
            click.echo(f"there are no functions in {common.functions}", err=True)
        _print_problems(found.problems)
    if not found.functions and has_errors(found.problems):
        click.get_current_context().exit(ExitCode.USAGE)


@click.command
@click.argument("name", shell_complete=complete_function)
@common_options
def show(common: Common, name: str) -> None:
    """Show a function: its manifest and its limits."""
    settings = common.settings()
    function = Registry(common.functions).get(name)
    digest = version(function, settings)
    notes = ColdFunctions(settings.store_directory)
    source = source_digest(function, settings)
    cold_only = notes.reason(source) if source else None
    policy, refusal = None, None
    try:
        policy = effective_policy(function, settings)
    except PolicyRefusedError as error:
        refusal = error
    if common.json:
        print_json(
            _summary(function)
            | {
                "source": str(function.source),
                "version": digest,
                "manifest": function.manifest.model_dump(mode="json", exclude_defaults=True),
                **_policy(policy),
                "cold_only": cold_only,
                "notes": [str(note) for note in policy.notes] if policy else [str(refusal)],
            }
        )
        return
    print_fields(_fields(function, policy, digest))
    for note in policy.notes if policy else ():
        print_warning(str(note))
    if cold_only:
        print_warning(f"is not booted ahead of its requests: {cold_only}")
    if refusal is not None:
        print_warning(f"cannot be invoked here: {refusal}")


@click.command
@click.argument("path", required=False, type=click.Path(path_type=Path))
@common_options
def validate(common: Common, path: Path | None) -> None:
    """Check functions against manifest rules and settings.

    PATH is a functions directory, else --functions. Shows the limits of each function, and what
    the settings clamp or refuse. Exits with 2 if there are errors.
    """
    directory = path or common.functions
    settings = common.settings()
    found = find_problems(directory, settings)
    failed = has_errors(found.problems)
    if common.json:
        print_json(
            {
                "valid": not failed,
                "problems": [item.to_dict() for item in found.problems],
                "functions": [
                    {"name": item.function.name, **_policy(item.policy)} for item in found.functions
                ],
            }
        )
    else:
        if found.functions:
            rows = [_row(item) for item in found.functions]
            print_table(("NAME", *_LIMIT_NAMES, "NETWORK"), rows)
        _print_problems(found.problems)
        if not found.problems:
            click.echo(f"no problems in {directory}", err=True)
    if failed:
        click.get_current_context().exit(ExitCode.USAGE)


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print_problem(problem)


def _summary(function: Function) -> dict[str, Any]:
    return {
        "name": function.name,
        "runtime": function.runtime,
        "interface": function.interface,
        "entrypoint": function.entrypoint,
        "description": function.manifest.description,
        "where": function.where(),
    }


def _policy(policy: Policy | None) -> dict[str, Any]:
    """A policy as JSON, in seconds, bytes and cores; null if the settings refuse the function."""
    if policy is None:
        return {"limits": None, "network": None, "runtime_class": None}
    names = (
        "timeout", "memory", "cpu", "pids", "tmp", "open_files", "file_size", "warm", "reuse",
    )  # fmt: skip
    callback = policy.network.callback
    return {
        "limits": {name: getattr(policy, name) for name in names},
        "network": {
            "destinations": [str(destination) for destination in policy.network.destinations],
            "alyx_url": None if callback is None else callback.url,
        },
        "runtime_class": policy.runtime_class,
    }


def _row(item: Checked) -> tuple[str, ...]:
    policy = item.policy
    if policy is None:
        return (item.function.name, *("-" for _ in _LIMIT_NAMES), "refused, see below")
    return (
        item.function.name,
        format_duration(policy.timeout),
        format_size(policy.memory),
        f"{policy.cpu:g}",
        str(policy.pids),
        format_size(policy.tmp),
        policy.runtime_class,
        " ".join(_reachable(policy)),
    )


def _reachable(policy: Policy) -> list[str]:
    """The destinations that a function can connect to."""
    network = policy.network
    back = [] if network.callback is None else [f"{network.callback.destination} (alyx_url)"]
    return [*map(str, network.destinations), *back] or ["none"]


def _fields(
    function: Function, policy: Policy | None, digest: str | None
) -> Iterator[tuple[str, str]]:
    """The fields that `show` prints; without those that the manifest leaves out."""
    manifest = function.manifest
    yield "name", function.name
    if manifest.description:
        yield "description", manifest.description
    yield "runtime", function.runtime
    yield "interface", function.interface
    yield "entrypoint", function.entrypoint
    yield "defined in", function.where()
    if digest is not None:
        yield "version", short_digest(digest)
    if policy is not None:
        yield "timeout", format_duration(policy.timeout)
        yield "memory", format_size(policy.memory)
        yield "cpu", f"{policy.cpu:g}"
        yield "pids", str(policy.pids)
        yield "/tmp", format_size(policy.tmp)  # noqa: S108 - a label
        yield "warm", str(policy.warm)
        yield "reuse", str(policy.reuse)
        yield "network", "\n".join(_reachable(policy))
        yield "runtime_class", policy.runtime_class
    yield from _manifest_fields(manifest)


def _manifest_fields(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.env:
        yield "env", "\n".join(f"{name}={text}" for name, text in manifest.env.items())
    if manifest.dependencies:
        asked = manifest.dependencies
        yield "dependencies", asked if isinstance(asked, str) else "\n".join(asked)
    if manifest.build is not None:
        yield "build", " ".join([manifest.build.command, *manifest.build.args])
    if manifest.routes:
        yield "routes", "\n".join(f"{' '.join(r.methods)} {r.path}" for r in manifest.routes)
    if manifest.hooks:
        yield "hooks", "\n".join(map(_hook, manifest.hooks))
    if manifest.schedules:
        yield (
            "schedules",
            "\n".join(
                f"{item.name}: {item.type} {item.expression} {item.timezone}"
                for item in manifest.schedules
            ),
        )
    if manifest.sample_input is not None:
        yield "sample input", dump(manifest.sample_input)


def _hook(hook: Hook) -> str:
    words = [hook.type, hook.source, hook.action, f"({hook.mode})"]
    return " ".join(word for word in words if word)
