"""Problems of functions: in their files, and where the operator's settings do not allow them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.documents.problems import Problem
from sandbox.errors import InvalidManifestError, PolicyRefusedError
from sandbox.functions.dependencies import DEPENDENCY_FILES
from sandbox.functions.discovery import discover
from sandbox.functions.function import Folder
from sandbox.functions.secrets import load_secrets, resolve_env
from sandbox.policy.limits import effective_policy
from sandbox.runtimes import Runtime
from sandbox.store.tree import Caps, ChangedError, Refused, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.functions.function import Function
    from sandbox.policy.limits import Policy


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A function and its policy; None if the settings refuse it."""

    function: Function
    policy: Policy | None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The functions of a directory, and their problems."""

    functions: tuple[Checked, ...]
    problems: tuple[Problem, ...]


def validate(directory: Path, settings: Settings) -> Validation:
    """All functions and problems of a directory.

    A value that the settings clamp is a warning; one that they refuse is an error.

    Raises:
        InvalidSettingsError: the secrets file cannot be used.
    """
    found = discover(directory)
    secrets = load_secrets(settings.secrets_file)
    problems = list(found.problems)
    functions = []
    for function in found.functions:
        problems += file_problems(function, settings)
        problems += policy_problems(function, settings, secrets)
        functions.append(Checked(function=function, policy=_policy(function, settings)))
    return Validation(functions=tuple(functions), problems=tuple(problems))


def _policy(function: Function, settings: Settings) -> Policy | None:
    try:
        return effective_policy(function, settings)
    except PolicyRefusedError:
        return None


def version(function: Function, settings: Settings) -> str | None:
    """The version that an invocation would report: the digest of the function's files.

    None if its bundle also holds what is built or installed.

    Raises:
        InvalidManifestError: its files cannot be deployed; `details.problems` lists why.
    """
    digest = source_digest(function, settings)
    return None if _is_made(function) else digest


def _is_made(function: Function) -> bool:
    """Whether its bundle may hold more than its files: what is built or installed."""
    if function.runtime is Runtime.GO or function.manifest.build or function.manifest.dependencies:
        return True
    directory = None if function.single_file else Folder(function.source)
    return directory is not None and any(directory.has(name) for name in DEPENDENCY_FILES)


def source_digest(function: Function, settings: Settings) -> str | None:
    """The digest of the function's files as they are now; None while they keep changing.

    Raises: see `version`.
    """
    caps = bundle_caps(settings)
    try:
        return Tree(function.source, single_file=function.single_file, caps=caps).digest()
    except Refused as refused:
        raise InvalidManifestError(
            f"its files cannot be deployed: {refused.problems[0]}",
            details={"problems": list(refused.problems)},
        ) from None
    except ChangedError:
        return None


def bundle_caps(settings: Settings) -> Caps:
    """How much a function's directory may hold."""
    return Caps(settings.limits.bundle, settings.limits.bundle_files)


def file_problems(function: Function, settings: Settings) -> Iterator[Problem]:
    """Why the function's files cannot be deployed."""
    try:
        version(function, settings)
    except InvalidManifestError as error:
        for message in error.details["problems"]:
            yield function.origin.problem(message)


def policy_problems(
    function: Function, settings: Settings, secrets: Mapping[str, str]
) -> Iterator[Problem]:
    """What the operator's settings clamp or refuse."""
    try:
        for note in effective_policy(function, settings).notes:
            message = f"{note.field}: {note.message}"
            yield function.origin.problem(message, at=note.field, severity="warning")
    except PolicyRefusedError as error:
        yield _refusal(function, error)
    try:
        resolve_env(function, secrets)
    except PolicyRefusedError as error:
        yield _refusal(function, error)


def _refusal(function: Function, error: PolicyRefusedError) -> Problem:
    """The refusal as a problem; its message begins with the place, `file:line: …`."""
    file = function.origin.file
    place = re.match(r"(?::(\d+))?: ", error.message.removeprefix(file))
    message = error.message.removeprefix(file)[place.end() :] if place else error.message
    return Problem(
        message=message,
        file=file,
        line=int(place[1]) if place and place[1] else None,
        hint=error.hint or "",
        function=function.name,
    )
