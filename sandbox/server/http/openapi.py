"""The OpenAPI document of a table of operations, and the words that the table is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sandbox import __version__
from sandbox.server.http.endpoints import GuardedEndpoint
from sandbox.server.http.problems import MEDIA_TYPE
from sandbox.server.http.schemas import TEXT, ref, schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandbox.server.http.endpoints import Endpoint

Json = dict[str, Any]

# What stands against a request, by status.
REFUSALS: Final = {
    400: "The request cannot be used.",
    401: "The caller has not proved who it is.",
    403: "The caller may not do that.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It is under way, or has ended.",
    413: "The body is too large.",
    415: "The body is of another kind, or compressed.",
    422: "The manifest, the settings or an idempotency key stand against it.",
    429: "Over a limit of the caller's, or no capacity.",
    431: "The headers are too large.",
    500: "A defect of the server.",
    503: "The engine, an image, the database or a free connection is not there.",
}
# Where the function has not answered: the response says why, and there is no problem document.
FAILURES: Final = {
    499: "It was cancelled.",
    502: "The function failed without an answer of its own; `error.code` says how.",
    504: "The function took longer than its time limit.",
}
# What a request of any kind can meet; and what one meets that is for callers that are known.
_ANYWHERE: Final = (400, 431, 500, 503)
_GUARDED: Final = (401, 403, 429)
BODY: Final = (408, 413, 415)
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_WAIT: Final = {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds."}}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method at a path: who answers it, with what, and what may stand against it.

    `answers` are by status, `refusals` are statuses beyond those that any operation can have.
    `access` says in docs/http.md who may ask, where the endpoint's scope does not.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    endpoint: Endpoint
    summary: str
    answers: Mapping[int, Json]
    refusals: Iterable[int] = ()
    parameters: Sequence[Json] = ()
    body: Json | None = None
    access: str = ""
    # False for what only a page loads.
    documented: bool = True

    @property
    def guarded(self) -> bool:
        return isinstance(self.endpoint, GuardedEndpoint)


def document(operations: Iterable[Operation], *, guarded: bool = True) -> Json:
    """The OpenAPI document, version 3.1; unless `guarded`, of a server that lets everybody in."""
    paths: dict[str, Json] = {}
    for operation in operations:
        if operation.documented:
            entry = _entry(operation, guarded=guarded)
            paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Alyx Sandbox",
            "version": __version__,
            "description": "Runs functions, each invocation in a container of its own.",
        },
        "servers": [{"url": "/"}],
        **({"security": [{scheme: []} for scheme in _SCHEMES]} if guarded else {}),
        "paths": paths,
        "components": {
            **({"securitySchemes": _SCHEMES} if guarded else {}),
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "schemas": schemas(),
        },
    }


def _entry(operation: Operation, *, guarded: bool) -> Json:
    met = {*_ANYWHERE, *operation.refusals, *(_GUARDED if operation.guarded else ())}
    if operation.guarded and not guarded:
        met.discard(401)
    responses = {status: {"$ref": f"#/components/responses/{status}"} for status in met} | dict(
        operation.answers
    )
    head, _, rest = operation.path.removeprefix("/").partition("/")
    entry: Json = {
        "tags": [rest.partition("/")[0] if head == "api" else "server"],
        "summary": operation.summary,
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if isinstance(operation.endpoint, GuardedEndpoint):
        if operation.endpoint.scope is not None:
            entry["description"] = f"Needs the scope `{operation.endpoint.scope}`."
    elif guarded:
        entry["security"] = []
    if operation.parameters:
        entry["parameters"] = list(operation.parameters)
    if operation.body is not None:
        entry["requestBody"] = {"content": operation.body}
    return entry


def _refusal(status: int) -> Json:
    shown = answer(REFUSALS[status], {MEDIA_TYPE: {"schema": ref("ProblemDocument")}})
    return shown | ({"headers": _WAIT} if status in (429, 503) else {})


def answer(description: str, content: Json | None = None) -> Json:
    """What an operation answers with."""
    return {"description": description} | ({} if content is None else {"content": content})


def accepted() -> dict[int, Json]:
    """202: the execution is on record, and runs later."""
    location = {"Location": {"required": True, "schema": TEXT}}
    shown = answer("It is on record, and will run.", json_of(ref("Execution")))
    return {202: shown | {"headers": location}}


def json_of(schema: Json) -> Json:
    """A body of JSON."""
    return {"application/json": {"schema": schema}}


def events(*names: str) -> Json:
    """Server-sent events, each described by itself; `data` is a document as JSON."""
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {"event": {"enum": [*names, "error"]}, "data": TEXT},
    }
    return {"text/event-stream": {"schema": event}}


def in_query(name: str, schema: Json, description: str) -> Json:
    """A parameter of the query."""
    return {"name": name, "in": "query", "schema": schema, "description": description}


def in_header(name: str, content: Json, description: str) -> Json:
    """A header of the request."""
    return {"name": name, "in": "header", "description": description, **content}


def in_path(name: str, pattern: str | None = None) -> Json:
    """A part of the path."""
    schema = TEXT | ({} if pattern is None else {"pattern": pattern})
    return {"name": name, "in": "path", "required": True, "schema": schema}
