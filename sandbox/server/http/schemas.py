"""The documents that the server sends and reads, as types, and the JSON Schemas of these types.

A handler sends a `TypedDict` as it is. Other types are of the library; `_adapt` says where their
JSON differs from their fields.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal, NotRequired

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from sandbox.errors import CODES, Code
from sandbox.executions.model import TIMES, Execution
from sandbox.models import AuthContext, FunctionError, FunctionResponse

Json = dict[str, Any]

OBJECT: Final[Json] = {"type": "object"}
TEXT: Final[Json] = {"type": "string"}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}


class FunctionSummary(TypedDict):
    """A function in a list."""

    name: str
    runtime: str
    interface: str
    description: str | None
    sample_input: Any
    routes: list[Json]


class FunctionDetails(FunctionSummary):
    """One function. `env` lists the names of its variables, without their values."""

    version: str | None
    env: list[str]
    manifest: Json


class FunctionList(TypedDict):
    """The functions, and the problems of those that cannot be used."""

    functions: list[FunctionSummary]
    problems: list[Json]


class Pools(TypedDict):
    """The state of each function's pool, and the number of executions that run."""

    pools: dict[str, Json]
    running: int


class ExecutionPage(TypedDict):
    """A page of executions. `next` is the `before` of the following page."""

    executions: list[Execution]
    next: str | None


class Health(TypedDict):
    """The process is alive."""

    status: Literal["ok"]


class ReadinessReport(TypedDict):
    """Whether the server can run functions, and if not, why."""

    status: Literal["ready", "not ready"]
    problems: list[str]
    functions: int
    warm: int


class TokenInfo(TypedDict):
    """What an internal token says (RFC 7662); only `active` if the token is not valid."""

    active: bool
    iss: NotRequired[str]
    aud: NotRequired[str]
    sub: NotRequired[str]
    jti: NotRequired[str]
    iat: NotRequired[int]
    exp: NotRequired[int]
    function: NotRequired[str]
    request_id: NotRequired[str]


class ProblemDocument(TypedDict):
    """A problem (RFC 9457), with the fields that a response has too."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    success: Literal[False]
    error: Json


_SENT: Final[tuple[Any, ...]] = (
    FunctionResponse, Execution, FunctionDetails, FunctionList, Pools, ExecutionPage, Health,
    ReadinessReport, TokenInfo, ProblemDocument,
)  # fmt: skip


class _Schema(GenerateJsonSchema):
    """Documents have all their fields and no others; integers are counts. Titles say nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: Any) -> Json:
        return self.generate_inner(schema["schema"])

    def int_schema(self, schema: Any) -> Json:
        return super().int_schema(schema) | {"minimum": 0}

    def dataclass_schema(self, schema: Any) -> Json:
        return super().dataclass_schema(schema) | {"additionalProperties": False}

    def typed_dict_schema(self, schema: Any) -> Json:
        return super().typed_dict_schema(schema) | {"additionalProperties": False}

    def field_is_required(self, field: Any, total: bool) -> bool:
        is_dataclass = field["type"] == "dataclass-field"
        return is_dataclass or super().field_is_required(field, total)


def ref(kind: Any) -> Json:
    """A reference to the schema of a type."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


@cache
def schemas() -> dict[str, Json]:
    """The JSON Schema of every document, by the name of its type."""
    adapters = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in _SENT]
    _, whole = TypeAdapter.json_schemas(
        [*adapters, (AuthContext.__name__, "validation", TypeAdapter(AuthContext))],  # type: ignore[list-item]
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schema,
    )
    found: dict[str, Json] = whole["$defs"]
    for schema in found.values():
        schema.pop("title", None)
        # The other paragraphs of a docstring are for readers of the code.
        schema["description"] = schema["description"].partition("\n\n")[0]
    _adapt(found)
    return found


def _adapt(found: dict[str, Json]) -> None:
    """Correct the schemas of types whose JSON differs from their fields."""
    response = found["FunctionResponse"]
    # Not part of the document: whether the function itself or the platform gave this response.
    del response["properties"]["answered"]
    response["properties"]["error"] = ref(FunctionError)
    response["required"] = [
        name for name in response["properties"] if name not in ("output", "error")
    ]
    response["oneOf"] = [{"required": ["output"]}, {"required": ["error"]}]
    found["ProblemDocument"]["properties"]["error"] = ref(FunctionError)
    execution = found["Execution"]
    for name in TIMES:  # RFC 3339 in documents
        nullable = "anyOf" in execution["properties"][name]
        execution["properties"][name] = {"anyOf": [_TIME, {"type": "null"}]} if nullable else _TIME
    execution["properties"]["response"] = ref(FunctionResponse) | {
        "description": "Kept only if no client waited for it."
    }
    execution["required"].remove("response")
    codes = "\n".join(f"- `{code}`: {CODES[code].meaning}" for code in Code)
    found["FunctionError"]["description"] = (
        f"A function may use codes of its own. The codes of the platform:\n\n{codes}"
    )
