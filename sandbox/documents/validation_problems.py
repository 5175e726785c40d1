"""Turns pydantic's errors into problems with file, line and hint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from sandbox.documents.problems import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic_core import ErrorDetails

    from sandbox.documents.yaml_reader import Node

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]

_A_TEXT: Final = ("expected a text", "put it in quotes")
_A_LIST: Final = ("expected a list", "write [one, two], or a line `- one` for each")
_A_MAP: Final = ("expected a map of names to values", "write lines such as `name: value`")
_A_NUMBER: Final = ("expected a number", "write it without quotes and unit")
_WHOLE: Final = ("expected a whole number", "write it without quotes, fraction and unit")
_EMPTY: Final = ("must not be empty", "fill it in, or remove it")
_EXPLAINED: Final = {
    "string_type": _A_TEXT,
    "tuple_type": _A_LIST,
    "list_type": _A_LIST,
    "dict_type": _A_MAP,
    "mapping_type": _A_MAP,
    "model_type": _A_MAP,
    "model_attributes_type": _A_MAP,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _A_NUMBER,
    "finite_number": _A_NUMBER,
    "too_short": _EMPTY,
    "string_too_short": _EMPTY,
}
_BOUNDS: Final = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than_equal": ("le", "of at most"),
}
# Words that people write for a field, if the spelling is not similar.
_OTHER_WORDS: Final = {
    "cpus": "cpu", "cores": "cpu", "cron": "schedules", "deps": "dependencies",
    "egress": "network", "environment": "env", "file": "entrypoint", "handler": "entrypoint",
    "language": "runtime", "main": "entrypoint", "mem": "memory", "processes": "pids",
    "ram": "memory", "requirements": "dependencies", "secrets": "env", "triggers": "hooks",
}  # fmt: skip


def validated(
    model: type[Model],
    values: dict[str, Any],
    *,
    node: Node,
    file: str,
    known: Mapping[tuple[str, ...], Collection[str]],
) -> tuple[Model | None, list[Problem]]:
    """`values` as a model, or None and the problems. `node` has the places of the values."""
    try:
        return model.model_validate(values), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    return None, sorted((_problem(error, node, file, known) for error in errors), key=_order)


def wrong_type(node: Node, file: str) -> Problem:
    """The problem of a manifest that is a list or a text."""
    message, hint = _A_MAP
    return Problem(message=message, hint=hint, file=file, line=node.line, column=node.column)


def label(path: Path) -> str:
    """`("hooks", 0, "type")` → `hooks[0].type`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _problem(
    error: ErrorDetails, node: Node, file: str, known: Mapping[tuple[str, ...], Collection[str]]
) -> Problem:
    path, is_key = _path(error["loc"])
    message, hint = _explain(error, path, node, known)
    is_key = is_key or error["type"] == "extra_forbidden"
    line, column = node.position(*path, key=is_key)
    return Problem(message=message, hint=hint, file=file, line=line, column=column)


def _path(location: Path) -> tuple[Path, bool]:
    """The path in the document for pydantic's location, and whether it means the key itself.

    A name in <> stands for the branch of a union, which is no step in the document.
    """
    steps = [step for step in location if not str(step).startswith("<")]
    if steps and steps[-1] == "[key]":
        return tuple(steps[:-1]), True
    return tuple(steps), False


def _explain(
    error: ErrorDetails,
    path: Path,
    node: Node,
    known: Mapping[tuple[str, ...], Collection[str]],
) -> tuple[str, str]:
    """Message and hint."""
    kind, context, name = error["type"], error.get("ctx", {}), label(path)
    if kind == "extra_forbidden":
        fields = known.get(tuple(step for step in path[:-1] if isinstance(step, str)), ())
        return _unknown(path, fields)
    if kind == "missing":
        return f"{name} is missing", f"add `{path[-1]}: …`"
    if kind in ("literal_error", "enum"):
        expected = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{name}: expected one of {', '.join(expected)}", did_you_mean(
            str(error["input"]), expected
        )
    if kind == "value_error":
        text = str(context["error"])
        return f"{name}: {text}" if name else text, ""
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{name}: expected a number {words} {context[bound]:g}", ""
    message, hint = _EXPLAINED.get(kind, (error["msg"], ""))
    here = node.find(*path)
    if here is not None and here.value is None:
        hint = 'write a value after the colon, or "" for an empty text'
    elif kind == "string_type" and here is not None and here.text is None:
        hint = "write one text, not a list or a map"
    return f"{name}: {message}", hint


def _unknown(path: Path, fields: Collection[str]) -> tuple[str, str]:
    field = str(path[-1])
    inside = f" in {label(path[:-1])}" if len(path) > 1 else ""
    other = _OTHER_WORDS.get(field.lower(), "")
    hint = f"did you mean {other!r}?" if other in fields else did_you_mean(field, fields)
    return f"unknown field {shown(field)}{inside}", hint or f"known: {', '.join(fields)}"


def _order(problem: Problem) -> tuple[int, int]:
    return problem.line or 0, problem.column or 0
