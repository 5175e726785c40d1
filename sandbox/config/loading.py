"""Reads the settings: defaults, then `sandbox.yaml`, then `SANDBOX_…` in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from sandbox.config.environment import (
    ENV_PREFIX,
    SETTINGS_FILE,
    settings_from_environment,
    with_absolute_paths,
)
from sandbox.config.settings import Settings
from sandbox.documents.problems import Problem, has_errors
from sandbox.documents.validation_problems import validated
from sandbox.documents.yaml_reader import Node, load
from sandbox.errors import InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pydantic.fields import FieldInfo


def load_settings(
    path: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings in force: defaults, the file at `path`, then `environment`.

    Without a path, `sandbox.yaml` in the working directory is read if it is there. Relative paths
    in the file start at its directory, those in variables at the working directory.

    Raises:
        InvalidSettingsError: a file or a variable cannot be used; `details.problems` lists why.
    """
    node: Node | None = None
    file = str(path or SETTINGS_FILE)
    problems: list[Problem] = []
    if path is not None or Path(SETTINGS_FILE).exists():
        node, problems = load(Path(file), file, follow_links=True)
    in_file = node.value if node is not None and node.value is not None else {}
    if not isinstance(in_file, dict):
        problems = [*problems, Problem(message="settings are a map of names to values", file=file)]
        in_file = {}
    values = merge(
        with_absolute_paths(in_file, Path(file).parent),
        with_absolute_paths(settings_from_environment(environment or {}), Path.cwd()),
    )
    settings, more = validated(
        Settings,
        values,
        node=node or Node(values, 1, 1),
        file=file if node else "environment",
        known=_known_fields(Settings),
    )
    problems = [*problems, *more]
    if settings is None or has_errors(problems):
        raise InvalidSettingsError(
            "the settings have problems:\n" + "\n".join(str(problem) for problem in problems),
            hint=f"they come from {file} and from variables that begin with {ENV_PREFIX}",
            details={"problems": [problem.to_dict() for problem in problems]},
        )
    return settings


def _known_fields(model: type[BaseModel]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The names of each section, by its path, for "did you mean"."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {(): tuple(model.model_fields)}
    for name, field in model.model_fields.items():
        below = section_model(field)
        if below is not None:
            for path, names in _known_fields(below).items():
                known[(name, *path)] = names
    return known


def section_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, also of an optional one; else None."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: maps are merged key by key, other values replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both_maps = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = merge(under, value) if both_maps else value  # type: ignore[arg-type]
    return merged
