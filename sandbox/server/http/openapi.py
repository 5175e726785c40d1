"""The OpenAPI document: every operation, and every status that it can be answered with."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_args

from sandbox import __version__
from sandbox.executions.model import Status
from sandbox.executions.queries import MOST_LISTED
from sandbox.server.http.problems import MEDIA_TYPE
from sandbox.server.http.schemas import OBJECT, TEXT, ref, schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
_FAILURES: Final = {
    499: "It was cancelled.",
    502: "The function failed without an answer of its own; `error.code` says how.",
    504: "The function took longer than its time limit.",
}
# What a request of any kind can meet; and what one meets that is for callers that are known.
_ANYWHERE: Final = (400, 431, 500, 503)
_GUARDED: Final = (401, 403, 429)
_BODY: Final = (408, 413, 415)
_WAIT: Final = {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds."}}
_ID: Final = {
    "name": "id", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,255}$"},
}  # fmt: skip


@cache
def document(*, guarded: bool = True) -> Json:
    """The OpenAPI document, version 3.1; unless `guarded`, of a server that lets everybody in."""
    whole = _document()
    if not guarded:
        del whole["security"], whole["components"]["securitySchemes"]
        for operations in whole["paths"].values():
            for operation in operations.values():
                if operation.pop("security", None) is None:  # it is not one for everybody anyway
                    del operation["responses"]["401"]
    return whole


def _document() -> Json:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Alyx Sandbox",
            "version": __version__,
            "description": "Runs functions, each invocation in a container of its own.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"key": []}],
        "paths": {
            **_functions(),
            **_executions(),
            "/api/webhooks/{function}": {"post": _webhook("function")},
            "/api/webhooks/{function}/{source}": {"post": _webhook("function", "source")},
            **_server(),
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "schemas": schemas(),
        },
    }


def _functions() -> Json:
    name = _in_path("name", r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")
    response = _json(ref("FunctionResponse"))
    listed = {200: _answer("The functions.", _json(ref("Functions")))}
    invoke = _operation(
        "Invoke a function. That it fails is an answer too: `success` is false.",
        {
            200: _answer("The function has answered.", response | _events("log", "response")),
            **_accepted(),
            **{status: _answer(text, response) for status, text in _FAILURES.items()},
        },
        (404, 409, 422, *_BODY),
        scope="invoke",
        parameters=(
            name,
            _query("wait", {"type": "boolean"}, "false: put it into the queue, answer 202."),
            _query(
                "timeout",
                {"type": "string", "pattern": r"^[1-9][0-9]{0,3}(ms|s|m)?$"},
                "Its time limit, such as 5s or 500ms.",
            ),
            _header(
                "Idempotency-Key",
                {"schema": {"type": "string", "pattern": r"^[!-~]{1,255}$"}},
                "The same key again gets the same answer.",
            ),
            _header(
                "X-Alyx-Auth",
                {"content": _json(ref("Identity"))},
                "For whom: `context.auth`. Needs the scope `impersonate`.",
            ),
        ),
        body=_json(OBJECT) | {"multipart/form-data": {"schema": OBJECT}},
    )
    return {
        "/api/functions": {"get": _operation("List the functions.", listed, scope="read")},
        "/api/functions/stats": {
            "get": _operation(
                "State of the pools: containers that are ready, boot and are busy.",
                {200: _answer("By function.", _json(ref("Pools")))},
                scope="read",
            )
        },
        "/api/functions/reload": {
            "post": _operation("Look at the directory again.", listed, scope="admin")
        },
        "/api/functions/{name}": {
            "get": _operation(
                "Show a function.",
                {200: _answer("The function.", _json(ref("Function")))},
                (404, 422),
                scope="read",
                parameters=(name,),
            ),
            "post": invoke,
        },
    }


def _executions() -> Json:
    execution = _json(ref("Execution"))
    filters = (
        _query("function", TEXT, "Only of this function."),
        _query("status", {"enum": list(get_args(Status))}, "Only those."),
        _query("caller", TEXT, "Only of this caller; needs the scope `read`."),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}, "How many."),
        _query("before", TEXT, "`next` of the page before."),
    )
    return {
        "/api/executions": {
            "get": _operation(
                "List executions, newest first: of all for the scope `read`, else one's own.",
                {200: _answer("A page of them.", _json(ref("Executions")))},
                parameters=filters,
            )
        },
        "/api/executions/{id}": {
            "get": _operation(
                "Show an execution.",
                {200: _answer("The execution as it is now.", execution)},
                (404,),
                parameters=(_ID,),
            ),
            "delete": _operation(
                "End an execution: kill it if it runs, never run it if it waits.",
                {202: _answer("It is ended.")},
                (404, 409),
                parameters=(_ID,),
            ),
        },
        "/api/executions/{id}/logs": {
            "get": _operation(
                "Its log as server-sent events, live while it runs.",
                {200: _answer("Its log.", _events("log", "execution"))},
                (404,),
                parameters=(_ID,),
            )
        },
        "/api/executions/{id}/retry": {
            "post": _operation(
                "Have one that is dead begin anew.", _accepted(), (404, 409), parameters=(_ID,)
            )
        },
    }


def _webhook(*names: str) -> Json:
    response = _json(ref("FunctionResponse"))
    return _operation(
        "Receive a webhook. Its signature is checked before anything starts.",
        {
            200: _answer("The function has answered; or its output alone.", _json({})),
            **_accepted(),
            **{status: _answer(text, response) for status, text in _FAILURES.items()},
            500: _answer(
                "A defect of the server; or the function's own failure, where the webhook is "
                "answered by its output alone.",
                response | {MEDIA_TYPE: {"schema": ref("Problem")}},
            ),
        },
        (401, 404, 409, 422, 429, *_BODY),
        parameters=[_in_path(name, None) for name in names],
        body={"*/*": {"schema": {}}},
        guarded=False,
    )


def _server() -> Json:
    def shown(summary: str, content: Json) -> Json:
        return {"get": _operation(summary, {200: _answer(summary, content)}, guarded=False)}

    ready = {
        200: _answer("They can.", _json(ref("Readiness"))),
        503: _answer(
            "They cannot; or there is no free connection.",
            _json(ref("Readiness")) | {MEDIA_TYPE: {"schema": ref("Problem")}},
        ),
    }
    token = {
        "application/x-www-form-urlencoded": {
            "schema": {
                "type": "object",
                "required": ["token"],
                "properties": {"token": TEXT | {"minLength": 1}},
            }
        }
    }
    figures = {200: _answer("The figures.", {"text/plain": {"schema": TEXT}})}
    return {
        "/api/tokens/introspect": {
            "post": _operation(
                "Whether an internal token is valid (RFC 7662).",
                {200: _answer("What it says.", _json(ref("Token")))},
                (408,),
                scope="read",
                body=token,
            )
        },
        "/.well-known/jwks.json": shown("The key that signs internal tokens.", _json(OBJECT)),
        "/healthz": shown("Whether the process lives.", _json(ref("Health"))),
        "/readyz": {"get": _operation("Whether invocations can be served.", ready, guarded=False)},
        "/metrics": {"get": _operation("Figures for Prometheus.", figures, scope="read")},
        "/openapi.json": shown("This document.", _json(OBJECT)),
        "/docs": shown("This document as a page.", {"text/html": {"schema": TEXT}}),
    }


def _operation(  # noqa: PLR0913
    summary: str,
    answers: Mapping[int, Json],
    refusals: Iterable[int] = (),
    *,
    parameters: Iterable[Json] = (),
    body: Json | None = None,
    scope: str | None = None,
    guarded: bool = True,
) -> Json:
    met = {*_ANYWHERE, *refusals, *(_GUARDED if guarded else ())} - {*answers}
    responses = dict(answers) | {
        status: {"$ref": f"#/components/responses/{status}"} for status in met
    }
    operation: Json = {
        "summary": summary,
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if scope is not None:
        operation["description"] = f"Needs the scope `{scope}`."
    if not guarded:
        operation["security"] = []
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"content": body}
    return operation


def _refusal(status: int) -> Json:
    answer = _answer(REFUSALS[status], {MEDIA_TYPE: {"schema": ref("Problem")}})
    return answer | ({"headers": _WAIT} if status in (429, 503) else {})


def _answer(description: str, content: Json | None = None) -> Json:
    return {"description": description} | ({} if content is None else {"content": content})


def _accepted() -> dict[int, Json]:
    location = {"Location": {"required": True, "schema": TEXT}}
    accepted = _answer("It is on record, and will run.", _json(ref("Execution")))
    return {202: accepted | {"headers": location}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _events(*names: str) -> Json:
    """Server-sent events, each described by itself; `data` is a document as JSON."""
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {"event": {"enum": [*names, "error"]}, "data": TEXT},
    }
    return {"text/event-stream": {"schema": event}}


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, content: Json, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, **content}


def _in_path(name: str, pattern: str | None) -> Json:
    schema = TEXT | ({} if pattern is None else {"pattern": pattern})
    return {"name": name, "in": "path", "required": True, "schema": schema}
