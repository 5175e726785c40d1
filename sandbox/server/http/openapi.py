"""The OpenAPI document of a table of operations, and what the rows of the table are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sandbox import __version__
from sandbox.executions.model import Execution
from sandbox.models import FunctionResponse
from sandbox.server.http.endpoints import AuthenticatedEndpoint
from sandbox.server.http.problems import MEDIA_TYPE
from sandbox.server.http.schemas import TEXT, ProblemDocument, ref, schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandbox.server.http.endpoints import Endpoint

Json = dict[str, Any]

# Why a request is refused with a problem document, by status.
REFUSALS: Final = {
    400: "The request is not valid.",
    401: "The caller is not authenticated.",
    403: "The caller may not do that.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It is running already, or has ended.",
    413: "The body is too large.",
    415: "The body has a media type that is not supported, or is compressed.",
    422: "The manifest, the settings or the idempotency key do not allow it.",
    429: "The caller is over one of its limits, or there is no capacity.",
    431: "The headers are too large.",
    500: "A defect of the server.",
    503: "The engine, an image, the database or a free connection is missing.",
}
# Statuses of requests of all kinds; of requests that need a caller; of requests that have a body.
_ALWAYS: Final = (400, 431, 500, 503)
_AUTHENTICATED: Final = (401, 403, 429)
BODY_REFUSALS: Final = (408, 413, 415)
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path: the endpoint that answers it, and what the documents say about it.

    `answers` are by status; a type stands for its JSON document. `refusals` are statuses of
    problem documents, besides those that all operations have. `summary` is plain text.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    endpoint: Endpoint
    summary: str
    answers: Mapping[int, Any]
    refusals: Iterable[int] = ()
    parameters: Sequence[Json] = ()
    body: Json | None = None
    # False for files that only the API page loads.
    documented: bool = True

    @property
    def scope(self) -> str:
        """The scope that a caller needs, as Markdown; empty if it needs none."""
        endpoint = self.endpoint
        if not isinstance(endpoint, AuthenticatedEndpoint) or endpoint.scope is None:
            return ""
        return f"`{endpoint.scope}`" + (", except for one's own" if endpoint.own else "")


def document(operations: Iterable[Operation], *, authentication: bool = True) -> Json:
    """The OpenAPI document, version 3.1, of a server with or without authentication."""
    paths: dict[str, Json] = {}
    for operation in operations:
        if operation.documented:
            entry = _entry(operation, authentication=authentication)
            paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Alyx Sandbox",
            "version": __version__,
            "description": "Runs functions, each invocation in a container of its own.",
        },
        **({"security": [{scheme: []} for scheme in _SCHEMES]} if authentication else {}),
        "paths": paths,
        "components": {
            **({"securitySchemes": _SCHEMES} if authentication else {}),
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "schemas": schemas(),
        },
    }


def _entry(operation: Operation, *, authentication: bool) -> Json:
    refusals = {*_ALWAYS, *operation.refusals}
    if isinstance(operation.endpoint, AuthenticatedEndpoint):
        refusals.update(_AUTHENTICATED)
        if not authentication:
            refusals.discard(401)
    responses = {
        **{status: {"$ref": f"#/components/responses/{status}"} for status in refusals},
        **{status: _described(answer) for status, answer in operation.answers.items()},
    }
    head, _, rest = operation.path.removeprefix("/").partition("/")
    entry: Json = {
        "tags": [rest.partition("/")[0] if head == "api" else "server"],
        "summary": operation.summary,
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if operation.scope:
        entry["description"] = f"Needs the scope {operation.scope}."
    if authentication and not isinstance(operation.endpoint, AuthenticatedEndpoint):
        entry["security"] = []
    if operation.parameters:
        entry["parameters"] = list(operation.parameters)
    if operation.body is not None:
        entry["requestBody"] = {"content": operation.body}
    return entry


def _described(answer: Any) -> Json:
    if isinstance(answer, dict):
        return answer
    return described(answer.__doc__.partition("\n")[0], json_of(ref(answer)))


def _refusal(status: int) -> Json:
    shown = described(REFUSALS[status], {MEDIA_TYPE: {"schema": ref(ProblemDocument)}})
    seconds = {"schema": {"type": "integer"}, "description": "In seconds."}
    return shown | ({"headers": {"Retry-After": seconds}} if status in (429, 503) else {})


def described(description: str, content: Json | None = None) -> Json:
    """An answer of an operation."""
    return {"description": description} | ({} if content is None else {"content": content})


def json_of(schema: Json) -> Json:
    """A body in JSON."""
    return {"application/json": {"schema": schema}}


def events(*names: str) -> Json:
    """Server-sent events. The schema is of each event; its `data` is a JSON document as text."""
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
    """A parameter of the path."""
    schema = TEXT | ({} if pattern is None else {"pattern": pattern})
    return {"name": name, "in": "path", "required": True, "schema": schema}


ACCEPTED: Final = {
    202: described("The execution is queued.", json_of(ref(Execution)))
    | {"headers": {"Location": {"required": True, "schema": TEXT}}}
}
# The function did not answer. The platform's response says why; it is not a problem document.
FAILURES: Final = {
    status: described(description, json_of(ref(FunctionResponse)))
    for status, description in {
        499: "The invocation was cancelled.",
        502: "The function failed without an answer of its own; `error.code` says how.",
        504: "The function took longer than its time limit.",
    }.items()
}
