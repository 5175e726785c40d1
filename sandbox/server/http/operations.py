"""The HTTP surface: every operation of the server, in one table.

The routes, the OpenAPI document, the paths that no manifest's route gets, and the table in
docs/http.md all come from here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_args

from starlette.responses import JSONResponse

from sandbox.executions.model import Status
from sandbox.executions.queries import MOST_LISTED
from sandbox.server.http import api_page, executions, functions, health, introspection, webhooks
from sandbox.server.http.endpoints import GuardedEndpoint, OpenEndpoint
from sandbox.server.http.openapi import (
    BODY,
    FAILURES,
    Operation,
    accepted,
    answer,
    document,
    events,
    in_header,
    in_path,
    in_query,
    json_of,
)
from sandbox.server.http.problems import MEDIA_TYPE
from sandbox.server.http.schemas import OBJECT, TEXT, ref

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from sandbox.server.service import Service

_NAME: Final = in_path("name", r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")
_ID: Final = in_path("id", "^[A-Za-z0-9_.:-]{1,255}$")
_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}
_RESPONSE: Final = json_of(ref("FunctionResponse"))
_EXECUTION: Final = json_of(ref("Execution"))
_FUNCTIONS: Final = {200: answer("The functions.", json_of(ref("Functions")))}
_NOT_ANSWERED: Final = {status: answer(text, _RESPONSE) for status, text in FAILURES.items()}
_OR_A_PROBLEM: Final = {MEDIA_TYPE: {"schema": ref("ProblemDocument")}}
_WEBHOOK: Final[dict[str, Any]] = {
    "method": "POST",
    "endpoint": OpenEndpoint(webhooks.receive, held=True),
    "summary": "Receive a webhook. Its signature is checked before anything starts.",
    "answers": {
        200: answer("The function has answered; or its output alone.", json_of({})),
        **accepted(),
        **_NOT_ANSWERED,
        500: answer(
            "A defect of the server; or the function's own failure, where the webhook is "
            "answered by its output alone.",
            _RESPONSE | _OR_A_PROBLEM,
        ),
    },
    "refusals": (401, 404, 409, 422, 429, *BODY),
    "body": {"*/*": {"schema": {}}},
    "access": "whoever can sign",
}


async def _openapi(request: Request, service: Service) -> Response:  # noqa: ARG001
    """`GET /openapi.json`."""
    guarded = service.settings.server.authentication != "none"
    return JSONResponse(openapi_document(guarded=guarded))


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/api/functions/{name}",
        endpoint=GuardedEndpoint(functions.invoke),
        access="`invoke`",
        summary="Invoke a function. That it fails is an answer too: `success` is false.",
        parameters=(
            _NAME,
            in_query("wait", {"type": "boolean"}, "false: put it into the queue, answer 202."),
            in_query(
                "timeout",
                {"type": "string", "pattern": r"^[1-9][0-9]{0,3}(ms|s|m)?$"},
                "Its time limit, such as 5s or 500ms.",
            ),
            in_header(
                "Idempotency-Key",
                {"schema": {"type": "string", "pattern": r"^[!-~]{1,255}$"}},
                "The same key again gets the same answer.",
            ),
            in_header(
                "X-Alyx-Auth",
                {"content": json_of(ref("AuthContext"))},
                "For whom: `context.auth`. Needs the scope `impersonate`.",
            ),
        ),
        body=json_of(OBJECT) | {"multipart/form-data": {"schema": OBJECT}},
        answers={
            200: answer("The function has answered.", _RESPONSE | events("log", "response")),
            **accepted(),
            **_NOT_ANSWERED,
        },
        refusals=(404, 409, 422, *BODY),
    ),
    Operation(
        method="GET",
        path="/api/functions",
        endpoint=GuardedEndpoint(functions.list_functions, "read"),
        summary="List the functions.",
        answers=_FUNCTIONS,
    ),
    Operation(
        method="GET",
        path="/api/functions/stats",
        endpoint=GuardedEndpoint(functions.stats, "read"),
        summary="Show the pools: containers that are ready, boot and are busy, by function.",
        answers={200: answer("By function.", json_of(ref("Pools")))},
    ),
    Operation(
        method="POST",
        path="/api/functions/reload",
        endpoint=GuardedEndpoint(functions.reload, "admin"),
        summary="Read the functions' directory again.",
        answers=_FUNCTIONS,
    ),
    Operation(
        method="GET",
        path="/api/functions/{name}",
        endpoint=GuardedEndpoint(functions.show, "read"),
        summary="Show a function.",
        parameters=(_NAME,),
        answers={200: answer("The function.", json_of(ref("FunctionDetails")))},
        refusals=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/executions",
        endpoint=GuardedEndpoint(executions.list_executions),
        access="`read`; else one's own only",
        summary="List executions, newest first: of all for the scope `read`, else one's own.",
        parameters=(
            in_query("function", TEXT, "Only of this function."),
            in_query("status", {"enum": list(get_args(Status))}, "Only those."),
            in_query("caller", TEXT, "Only of this caller; needs the scope `read`."),
            in_query("limit", _LIMIT, "How many."),
            in_query("before", TEXT, "`next` of the page before."),
        ),
        answers={200: answer("A page of them.", json_of(ref("Executions")))},
    ),
    Operation(
        method="GET",
        path="/api/executions/{id}",
        endpoint=GuardedEndpoint(executions.show),
        access="`read`, or one's own",
        summary="Show an execution.",
        parameters=(_ID,),
        answers={200: answer("The execution as it is now.", _EXECUTION)},
        refusals=(404,),
    ),
    Operation(
        method="DELETE",
        path="/api/executions/{id}",
        endpoint=GuardedEndpoint(executions.cancel),
        access="`admin`, or one's own",
        summary="End an execution: kill it if it runs, never run it if it waits.",
        parameters=(_ID,),
        answers={202: answer("It is ended.")},
        refusals=(404, 409),
    ),
    Operation(
        method="GET",
        path="/api/executions/{id}/logs",
        # Whoever follows a log is no reason for a service not to end.
        endpoint=GuardedEndpoint(executions.logs, held=False),
        access="`read`, or one's own",
        summary="Follow its log as server-sent events, live while it runs.",
        parameters=(_ID,),
        answers={200: answer("Its log.", events("log", "execution"))},
        refusals=(404,),
    ),
    Operation(
        method="POST",
        path="/api/executions/{id}/retry",
        endpoint=GuardedEndpoint(executions.retry),
        access="`admin`, or one's own",
        summary="Have one that is dead begin anew.",
        parameters=(_ID,),
        answers=accepted(),
        refusals=(404, 409),
    ),
    Operation(
        path="/api/webhooks/{function}",
        parameters=[in_path("function")],
        **_WEBHOOK,
    ),
    Operation(
        path="/api/webhooks/{function}/{source}",
        parameters=[in_path("function"), in_path("source")],
        **_WEBHOOK,
    ),
    Operation(
        method="POST",
        path="/api/tokens/introspect",
        endpoint=GuardedEndpoint(introspection.introspect, "read"),
        summary="Say whether an internal token is valid (RFC 7662).",
        body={
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["token"],
                    "properties": {"token": TEXT | {"minLength": 1}},
                }
            }
        },
        answers={200: answer("What it says.", json_of(ref("Token")))},
        refusals=(408,),
    ),
    Operation(
        method="GET",
        path="/.well-known/jwks.json",
        endpoint=OpenEndpoint(introspection.jwks),
        summary="The key that signs internal tokens.",
        answers={200: answer("A JSON Web Key Set.", json_of(OBJECT))},
    ),
    Operation(
        method="GET",
        path="/healthz",
        endpoint=OpenEndpoint(health.healthz),
        summary="Whether the process lives.",
        answers={200: answer("It does.", json_of(ref("Health")))},
    ),
    Operation(
        method="GET",
        path="/readyz",
        endpoint=OpenEndpoint(health.readyz),
        summary="Whether invocations can be served.",
        answers={
            200: answer("They can.", json_of(ref("Ready"))),
            503: answer(
                "They cannot; or there is no free connection.",
                json_of(ref("Ready")) | _OR_A_PROBLEM,
            ),
        },
    ),
    Operation(
        method="GET",
        path="/metrics",
        endpoint=GuardedEndpoint(health.metrics, "read"),
        summary="Figures for Prometheus.",
        answers={200: answer("The figures.", {"text/plain": {"schema": TEXT}})},
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        endpoint=OpenEndpoint(_openapi),
        summary="This document.",
        answers={200: answer("OpenAPI 3.1.", json_of(OBJECT))},
    ),
    Operation(
        method="GET",
        path="/docs",
        endpoint=OpenEndpoint(api_page.show),
        summary="This document as a page.",
        answers={200: answer("Swagger UI.", {"text/html": {"schema": TEXT}})},
    ),
    Operation(
        method="GET",
        path="/docs/{file}",
        endpoint=OpenEndpoint(api_page.asset),
        summary="What that page loads.",
        answers={},
        documented=False,
    ),
)

# The first segments of these paths, which no manifest's route gets.
RESERVED: Final = frozenset(operation.path.split("/")[1] for operation in OPERATIONS)


@cache
def openapi_document(*, guarded: bool = True) -> dict[str, Any]:
    """The OpenAPI document; unless `guarded`, of a server that lets everybody in."""
    return document(OPERATIONS, guarded=guarded)
