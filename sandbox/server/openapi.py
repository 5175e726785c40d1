"""The OpenAPI document, from the contract's codes and the server's routes; and a page of it."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any, Final

from sandbox import __version__
from sandbox.errors import CODES, Code
from sandbox.server.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Json = dict[str, Any]

# What any request may be answered with, whatever it is for.
_ALWAYS: Final = (400, 401, 403, 429, 500)
_TITLES: Final = {
    400: "The request cannot be used.",
    401: "The caller has not proved who it is.",
    403: "The caller may not do that.",
    404: "There is no such thing.",
    405: "The path has other methods.",
    408: "The body came too slowly.",
    409: "It is under way, or has ended.",
    413: "The body is too large.",
    415: "The body is neither JSON nor a form.",
    422: "The manifest, the settings or an idempotency key stand against it.",
    429: "Over a limit, or no capacity; `Retry-After` says when to try again.",
    499: "The caller cancelled it.",
    500: "A defect of the server.",
    502: "The function failed without an answer of its own; `error.code` says how.",
    503: "The engine, an image or the database is not there.",
    504: "The function took longer than its time limit.",
}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_NAME: Final = {
    "name": "name", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,62}$"},
}  # fmt: skip
_OBJECT: Final[Json] = {"type": "object"}


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, description: str) -> Json:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "schema": schema, "description": description}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(  # noqa: PLR0913
    summary: str,
    answers: Mapping[int, Json],
    *,
    refusals: Iterable[int] = (),
    parameters: Iterable[Json] = (),
    body: Json | None = None,
    scope: str | None = None,
    open_to_all: bool = False,
) -> Json:
    responses: Json = {
        str(status): {"description": "As asked for."} | answer for status, answer in answers.items()
    }
    for status in sorted({*_ALWAYS, *refusals}):
        if str(status) not in responses:
            content = {MEDIA_TYPE: {"schema": _ref("Problem")}}
            responses[str(status)] = {"description": _TITLES[status], "content": content}
    operation: Json = {"summary": summary, "responses": responses}
    if scope is not None:
        operation["description"] = f"Needs the scope `{scope}`."
    if open_to_all:
        operation["security"] = []
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    return operation


@cache
def document() -> Json:
    """The OpenAPI document, version 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Alyx Sandbox",
            "version": __version__,
            "description": "Runs functions, each invocation in a container of its own.",
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": _schemas(),
        },
    }


def _paths() -> Json:
    response = {"content": _json(_ref("FunctionResponse"))}
    streamed = {
        "content": _json(_ref("FunctionResponse"))
        | {"text/event-stream": {"schema": {"type": "string"}}}
    }
    execution = {"content": _json(_ref("Execution"))}
    located = execution | {"headers": {"Location": {"schema": {"type": "string"}}}}
    some = {"content": _json(_OBJECT)}
    invoked = (404, 408, 409, 413, 415, 422, 499, 502, 503, 504)
    failed = dict.fromkeys((499, 502, 504), response)
    stored = (404, 503)
    return {
        "/api/functions/{name}": {
            "post": _operation(
                "Invoke a function. Its own failure is an answer too: `success` is false.",
                {200: streamed, 202: located, **failed},
                refusals=invoked,
                scope="invoke",
                parameters=(
                    _NAME,
                    _query("wait", {"type": "boolean"}, "false: put it into the queue, answer 202"),
                    _query("timeout", {"type": "string"}, "time limit, such as 5s"),
                    _header("Idempotency-Key", "the same key again gets the same answer"),
                    _header("X-Alyx-Auth", "`context.auth`, as JSON; needs the scope impersonate"),
                ),
                body={
                    "content": {
                        "application/json": {"schema": _OBJECT},
                        "multipart/form-data": {"schema": _OBJECT},
                    }
                },
            ),
            "get": _operation(
                "Show a function.", {200: some}, refusals=(404, 422), parameters=(_NAME,),
                scope="read",
            ),
        },
        "/api/functions": {"get": _operation("List the functions.", {200: some}, scope="read")},
        "/api/functions/stats": {
            "get": _operation("State of the pools.", {200: some}, scope="read")
        },
        "/api/functions/reload": {
            "post": _operation("Look at the directory again.", {200: some}, scope="admin")
        },
        "/api/executions": {
            "get": _operation(
                "List executions, newest first; one's own without the scope read.",
                {200: {"content": _json(_ref("Executions"))}},
                refusals=(503,),
                parameters=(
                    _query("function", {"type": "string"}, "only of this function"),
                    _query("status", {"type": "string"}, "only those"),
                    _query("caller", {"type": "string"}, "only of this caller"),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "how many"),
                    _query("before", {"type": "string"}, "`next` of the page before"),
                ),
            )
        },
        "/api/executions/{id}": {
            "get": _operation(
                "Show an execution.", {200: execution}, refusals=stored, parameters=(_ID,)
            ),
            "delete": _operation(
                "End an execution: kill it if it runs, never run it if it waits.",
                {202: {}}, refusals=(*stored, 409), parameters=(_ID,),
            ),
        },
        "/api/executions/{id}/logs": {
            "get": _operation(
                "Its log as server-sent events, live while it runs.",
                {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
                refusals=stored, parameters=(_ID,),
            )
        },
        "/api/executions/{id}/retry": {
            "post": _operation(
                "Have one that is dead begin anew.",
                {202: located}, refusals=(*stored, 409), parameters=(_ID,),
            )
        },
        "/api/webhooks/{function}": {"post": _webhook()},
        "/api/webhooks/{function}/{source}": {"post": _webhook("source")},
        "/api/tokens/introspect": {
            "post": _operation(
                "Whether an internal token is valid (RFC 7662).",
                {200: some}, scope="read",
                body={
                    "required": True,
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {
                                "type": "object",
                                "required": ["token"],
                                "properties": {"token": {"type": "string"}},
                            }
                        }
                    },
                },
            )
        },
        "/.well-known/jwks.json": {
            "get": _operation("Keys of internal tokens.", {200: some}, open_to_all=True)
        },
        "/healthz": {
            "get": _operation("Whether the process lives.", {200: some}, open_to_all=True)
        },
        "/readyz": {
            "get": _operation(
                "Whether invocations can be served.", {200: some, 503: some}, open_to_all=True
            )
        },
        "/metrics": {
            "get": _operation(
                "Figures for Prometheus.",
                {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
                scope="read",
            )
        },
    }  # fmt: skip


def _webhook(*more: str) -> Json:
    names = ("function", *more)
    answer = {"content": _json(_ref("FunctionResponse"))}
    return _operation(
        "Receive a webhook; its signature is checked before anything starts.",
        {
            200: answer, 202: {"content": _json(_ref("Execution"))},
            499: answer, 502: answer, 504: answer,
        },
        refusals=(404, 408, 409, 413, 422, 503),
        parameters=[
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ],
        body={"content": {"application/json": {"schema": {}}}},
        open_to_all=True,
    )  # fmt: skip


def _schemas() -> Json:
    text, number = {"type": "string"}, {"type": "number"}
    maybe_text, maybe_number = {"type": ["string", "null"]}, {"type": ["number", "null"]}
    error = {
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {"code": text, "message": text, "details": _OBJECT},
    }
    codes = {code.value: info.meaning for code, info in CODES.items()}
    log = {
        "type": "object",
        "required": ["level", "message", "timestamp"],
        "properties": {"level": text, "message": text, "timestamp": text, "data": {}},
    }
    return {
        "FunctionResponse": {
            "type": "object",
            "required": ["request_id", "success", "logs", "duration_ms", "stats"],
            "properties": {
                "request_id": text,
                "success": {"type": "boolean"},
                "output": {},
                "error": _ref("Error"),
                "logs": {"type": "array", "items": log},
                "duration_ms": number,
                "stats": _OBJECT,
            },
        },
        "Error": error
        | {"description": "Codes: " + "; ".join(f"{code}: {it}" for code, it in codes.items())},
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail", "request_id", "success", "error"],
            "properties": {
                "type": text, "title": text, "status": {"type": "integer"}, "detail": text,
                "instance": text, "request_id": text, "success": {"const": False},
                "error": _ref("Error"),
            },
        },
        "Execution": {
            "type": "object",
            "required": ["id", "function", "caller", "trigger", "status", "created_at"],
            "properties": {
                "id": text, "function": text, "caller": text, "trigger": text, "status": text,
                "version": maybe_text, "code": maybe_text, "message": maybe_text,
                "created_at": text, "started_at": maybe_text, "ended_at": maybe_text,
                "due_at": maybe_text, "attempts": number, "queue_ms": maybe_number,
                "boot_ms": maybe_number, "run_ms": maybe_number, "cpu_ms": maybe_number,
                "log_tail": text, "response": _ref("FunctionResponse"),
            },
        },
        "Executions": {
            "type": "object",
            "required": ["executions", "next"],
            "properties": {
                "executions": {"type": "array", "items": _ref("Execution")},
                "next": maybe_text,
            },
        },
    }  # fmt: skip


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,summary{font-family:ui-monospace,monospace}summary{padding:.4rem 0;cursor:pointer}"
    "table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
    "b{display:inline-block;min-width:4.5rem}"
)
# Of the page itself: a style of its own, no script, nothing from elsewhere.
PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@cache
def page() -> str:
    """The document as a page for people: no script, nothing loaded from anywhere."""
    shown = document()
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(shown['info']['title'])}"
        f"</title><style>{_STYLE}</style><h1>{escape(shown['info']['title'])} {__version__}</h1>"
        f"<p>{escape(shown['info']['description'])} The document: "
        "<a href=openapi.json>openapi.json</a>.</p>"
    ]
    for path, operations in shown["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation_html(method, path, operation))
    parts.append("<h2>Error codes</h2><table>")
    for code in Code:
        info = CODES[code]
        parts.append(f"<tr><td><code>{code}</code><td>{info.http_status}<td>{escape(info.meaning)}")
    parts.append("</table></html>")
    return "".join(parts)


def _operation_html(method: str, path: str, operation: Json) -> str:
    lines = [
        f"<details><summary><b>{method.upper()}</b> {escape(path)}</summary>"
        f"<p>{escape(operation['summary'])} {escape(operation.get('description', ''))}</p><table>"
    ]
    lines += [
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{parameter['in']}"
        f"<td>{escape(parameter.get('description', ''))}"
        for parameter in operation.get("parameters", ())
    ]
    for status, response in operation["responses"].items():
        lines.append(f"<tr><td><code>{status}</code><td><td>{escape(response['description'])}")
    lines.append("</table></details>")
    return "".join(lines)
