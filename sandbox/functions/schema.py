"""Reads the map `functions:` of an Alyx `schema.yaml`, and ignores the rest of that file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sandbox.documents.problems import Problem, capped, has_errors
from sandbox.documents.yaml_reader import load
from sandbox.functions.function import Origin
from sandbox.functions.manifest import Manifest, manifest_from

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.documents.yaml_reader import Node

SCHEMA_FILE: Final = "schema.yaml"


@dataclass(frozen=True)
class Declared:
    """One entry of the map. `manifest` is None if it has errors; they are in `problems`."""

    origin: Origin
    manifest: Manifest | None
    problems: tuple[Problem, ...]

    @property
    def path(self) -> str | None:
        """The path that the entry names, even if something else in it is wrong."""
        child = self.origin.node.find("path") if self.origin.node is not None else None
        return child.value if child is not None and isinstance(child.value, str) else None


@dataclass(frozen=True)
class Schema:
    """The functions of a schema. `problems` are those that belong to no single entry."""

    functions: tuple[Declared, ...]
    problems: tuple[Problem, ...]


def read_schema(path: Path, shown: str) -> Schema | None:
    """The functions of a schema; None if it has no `functions:`."""
    document, problems = load(path, shown)
    if document is None:
        return Schema((), tuple(problems))
    functions = document.find("functions")
    if functions is None:
        return None
    if functions.value is not None and not isinstance(functions.value, dict):
        problem = Problem(
            message="functions: expected a map of names to functions",
            hint="write lines such as `hello:`, with the function's fields below",
            file=shown,
            line=functions.line,
            column=functions.column,
        )
        return Schema((), (problem,))
    first, last = _lines(document, "functions")
    ours = [problem for problem in problems if first <= (problem.line or 0) < last]
    by_entry: dict[str | None, list[Problem]] = {}
    for problem in ours:
        entry = _entry_at(functions, problem.line or 0)
        by_entry.setdefault(entry, []).append(replace(problem, function=entry))
    declared = [
        _declared(str(name), node, shown, by_entry.get(str(name), []))
        for name, node in functions.children.items()
    ]
    return Schema(tuple(declared), tuple(by_entry.get(None, ())))


def _declared(name: str, node: Node, shown: str, problems: list[Problem]) -> Declared:
    origin = Origin(name, shown, node)
    manifest, more = manifest_from(node, shown)
    problems = capped([*problems, *(replace(problem, function=name) for problem in more)])
    if manifest is not None and manifest.name not in (None, name):
        message = f"name: the key already names this function {name!r}"
        problems.append(origin.problem(message, "remove `name`", at="name"))
    return Declared(origin, None if has_errors(problems) else manifest, tuple(problems))


def _lines(node: Node, key: str) -> tuple[int, float]:
    """The lines of a map's field: from its key to the next one."""
    first = node.keys[key][0]
    later = [line for line, _ in node.keys.values() if line > first]
    return first, min(later, default=float("inf"))


def _entry_at(functions: Node, line: int) -> str | None:
    """The key of the map that a line belongs to."""
    before = [(place[0], key) for key, place in functions.keys.items() if place[0] <= line]
    return max(before)[1] if before else None
