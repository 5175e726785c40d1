"""Reads the environment: settings in `SANDBOX_…`, and the directory of this user's data.

The command line imports this module at every start, so it imports the standard library only.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sandbox.errors import InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_FILE: Final = "sandbox.yaml"
ENV_PREFIX: Final = "SANDBOX_"
# The command line itself reads these; they are no settings.
ENV_OF_OPTIONS: Final = frozenset({"SANDBOX_FUNCTIONS", "SANDBOX_SETTINGS", "SANDBOX_DEBUG"})
# `SANDBOX_ENGINE__HOST` sets `engine.host`: a single underscore is part of a name.
ENV_SEPARATOR: Final = "__"
# The settings that are paths. A test holds this to the types of the fields.
PATH_SETTINGS: Final = (
    ("store",),
    ("secrets_file",),
    ("images", "ca_bundle"),
    ("engine", "tls", "ca"),
    ("engine", "tls", "cert"),
    ("engine", "tls", "key"),
    ("server", "tokens", "key_file"),
    ("server", "jwt", "jwks"),
)
# A URL has this and a path does not.
_URL_MARK: Final = "://"


def cache_directory(environment: Mapping[str, str]) -> Path:
    """The user's cache directory, as the XDG base directory specification gives it."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alyx-sandbox"


def with_absolute_paths(values: Mapping[str, Any], directory: str | Path) -> dict[str, Any]:
    """Nested settings whose relative paths start at `directory`, with all paths absolute."""
    result = deepcopy(dict(values))
    for *sections, name in PATH_SETTINGS:
        place: Any = result
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        path = place.get(name) if isinstance(place, dict) else None
        if isinstance(path, str) and _URL_MARK not in path:
            place[name] = os.path.abspath(os.path.join(directory, path))  # noqa: PTH100, PTH118
    return result


def settings_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings in `SANDBOX_…` variables, as a nested mapping.

    `SANDBOX_LIMITS__OUTPUT=1mb` becomes `{"limits": {"output": "1mb"}}`; a value that begins
    with `[` or `{` is read as JSON.

    Raises:
        InvalidSettingsError: a value is invalid JSON, or one variable sets a section and another a
            part of it.
    """
    nested: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENV_PREFIX) or variable in ENV_OF_OPTIONS:
            continue
        *sections, key = variable.removeprefix(ENV_PREFIX).lower().split(ENV_SEPARATOR)
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise InvalidSettingsError(
                    f"{variable}: {section} is set as a whole by another variable",
                    hint="unset one of them",
                )
        try:
            place[key] = json.loads(text) if text[:1] in ("[", "{") else text
        except ValueError as error:
            raise InvalidSettingsError(f"{variable} is no JSON: {error}") from None
    return nested
