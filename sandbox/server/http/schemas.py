"""The documents that the server sends and takes, as types; and their JSON Schema, from these types.

A `TypedDict` is a document that a handler writes as it stands. The documents of the library are its
own types; what differs in their JSON is said below.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from sandbox.errors import CODES, Code
from sandbox.executions.model import TIMES, Execution
from sandbox.models import AuthContext, FunctionResponse

Json = dict[str, Any]

OBJECT: Final[Json] = {"type": "object"}
TEXT: Final[Json] = {"type": "string"}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}


# A document with the fields that it lists, and no others.
_closed: Final = with_config(ConfigDict(extra="forbid"))


@_closed
class FunctionSummary(TypedDict):
    """A function in a list."""

    name: str
    runtime: str
    interface: str
    description: str | None
    sample_input: Any
    routes: list[Json]


@_closed
class FunctionDetails(FunctionSummary):
    """A function by itself. `env` has the names of its variables only."""

    version: str | None
    env: list[str]
    manifest: Json


@_closed
class Functions(TypedDict):
    """The functions, and what is wrong with the others."""

    functions: list[FunctionSummary]
    problems: list[Json]


@_closed
class Pools(TypedDict):
    """The state of the pools, by function; how many executions run."""

    pools: dict[str, Json]
    running: int


@_closed
class Executions(TypedDict):
    """A page of executions; `next` is the `before` of the page that follows."""

    executions: list[Execution]
    next: str | None


@_closed
class Health(TypedDict):
    """The process lives."""

    status: Literal["ok"]


@_closed
class Ready(TypedDict):
    """Whether invocations can be served."""

    status: Literal["ready", "not ready"]
    problems: list[str]
    functions: int
    warm: int


class Token(TypedDict):
    """What an internal token says (RFC 7662)."""

    active: bool
    function: NotRequired[str]
    request_id: NotRequired[str]


@_closed
class ProblemDocument(TypedDict):
    """RFC 9457, with the fields that a response has too."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    success: Literal[False]
    error: Json


_SENT: Final = (
    FunctionResponse, Execution, FunctionDetails, Functions, Pools, Executions, Health, Ready,
    Token, ProblemDocument,
)  # fmt: skip


class _Schema(GenerateJsonSchema):
    """Without titles and defaults: every field of a document is there."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: Any) -> Json:
        return self.generate_inner(schema["schema"])

    def dataclass_schema(self, schema: Any) -> Json:
        return super().dataclass_schema(schema) | {"additionalProperties": False}

    def field_is_required(self, field: Any, total: bool) -> bool:
        is_dataclass = field["type"] == "dataclass-field"
        return is_dataclass or super().field_is_required(field, total)


def ref(name: str) -> Json:
    """A reference to one of `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def schemas() -> dict[str, Json]:
    """The JSON Schema of every document, by name."""
    wanted = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in _SENT]
    _, whole = TypeAdapter.json_schemas(
        [*wanted, (AuthContext.__name__, "validation", TypeAdapter(AuthContext))],  # type: ignore[list-item]
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schema,
    )
    found: dict[str, Json] = whole["$defs"]
    for schema in found.values():
        schema.pop("title", None)
        # The rest of a docstring is for readers of the code.
        schema["description"] = schema["description"].partition("\n\n")[0]
    _adapt(found)
    return found


def _adapt(found: dict[str, Json]) -> None:
    """Say where the JSON of a document differs from its type."""
    response = found["FunctionResponse"]
    # It tells the function's own word from the platform's, and is no part of the document.
    del response["properties"]["answered"]
    response["properties"]["error"] = ref("FunctionError")
    response["required"] = [
        name for name in response["properties"] if name not in ("output", "error")
    ]
    response["oneOf"] = [{"required": ["output"]}, {"required": ["error"]}]
    found["ProblemDocument"]["properties"]["error"] = ref("FunctionError")
    execution = found["Execution"]
    for name in TIMES:  # RFC 3339 in documents
        nullable = "anyOf" in execution["properties"][name]
        execution["properties"][name] = {"anyOf": [_TIME, {"type": "null"}]} if nullable else _TIME
    # It is kept of those executions that nobody waited for.
    execution["properties"]["response"] = ref("FunctionResponse")
    execution["required"].remove("response")
    codes = "\n".join(f"- `{code}`: {CODES[code].meaning}" for code in Code)
    found["FunctionError"]["description"] = (
        f"A function may have codes of its own. The others:\n\n{codes}"
    )
