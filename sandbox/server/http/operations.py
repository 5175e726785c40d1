"""The HTTP surface: every operation of the server, in one table.

From this table come the routes, the OpenAPI document, the paths that routes of functions may not
take, and the table in docs/http.md. A new endpoint is a row here and a handler.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_args

from starlette.responses import JSONResponse

from sandbox.config.field_types import FUNCTION_NAME
from sandbox.executions.model import Execution, Status
from sandbox.executions.queries import MOST_LISTED
from sandbox.models import AuthContext, FunctionResponse
from sandbox.server.dispatch.idempotency import KEY
from sandbox.server.http import (
    api_page,
    executions,
    functions,
    health,
    introspection,
    schemas,
    webhooks,
)
from sandbox.server.http.endpoints import AuthenticatedEndpoint, PublicEndpoint
from sandbox.server.http.openapi import (
    ACCEPTED,
    BODY_REFUSALS,
    FAILURES,
    Operation,
    described,
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

_NAME: Final = in_path("name", f"^{FUNCTION_NAME.pattern}$")
_ID: Final = in_path("id", "^[A-Za-z0-9_.:-]{1,255}$")
_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}
_RESPONSE: Final = json_of(ref(FunctionResponse))
_OR_A_PROBLEM: Final = {MEDIA_TYPE: {"schema": ref(schemas.ProblemDocument)}}


async def _openapi(_: Request, service: Service) -> Response:
    authentication = service.settings.server.authentication != "none"
    return JSONResponse(openapi_document(authentication=authentication))


_WEBHOOK: Final = Operation(
    method="POST",
    path="/api/webhooks/{function}",
    endpoint=PublicEndpoint(webhooks.receive, drained=True),
    summary="Receive a webhook. Its signature is checked before the function runs.",
    parameters=(in_path("function"),),
    body={"*/*": {"schema": {}}},
    answers={
        200: described("The function has answered: its response, or only its output.", json_of({})),
        **ACCEPTED,
        **FAILURES,
        500: described(
            "A defect of the server; or a failure of the function, if the webhook is answered "
            "with the output only.",
            _RESPONSE | _OR_A_PROBLEM,
        ),
    },
    refusals=(401, 404, 409, 422, 429, *BODY_REFUSALS),
)

# fmt: off
OPERATIONS: Final = (
    Operation(
        method="POST", path="/api/functions/{name}",
        endpoint=AuthenticatedEndpoint(functions.invoke, "invoke"),
        summary="Invoke a function. If the function itself fails, the status is 200 too.",
        parameters=(
            _NAME,
            in_query("wait", {"type": "boolean"}, "false: queue the execution and answer 202."),
            in_query("timeout", TEXT | {"pattern": r"^[1-9][0-9]{0,3}(ms|s|m)?$"},
                     "Its time limit, such as 5s or 500ms."),
            in_header("Idempotency-Key", {"schema": TEXT | {"pattern": f"^{KEY.pattern}$"}},
                      "The same key gets the same answer."),
            in_header("X-Alyx-Auth", {"content": json_of(ref(AuthContext))},
                      "On whose behalf: `context.auth`. Needs the scope `impersonate`."),
        ),
        body=json_of(OBJECT) | {"multipart/form-data": {"schema": OBJECT}},
        answers={
            200: described("The function has answered.", _RESPONSE | events("log", "response")),
            **ACCEPTED,
            **FAILURES,
        },
        refusals=(404, 409, 422, *BODY_REFUSALS),
    ),
    Operation(
        method="GET", path="/api/functions",
        endpoint=AuthenticatedEndpoint(functions.list_functions, "read"),
        summary="List the functions.",
        answers={200: schemas.FunctionList},
    ),
    Operation(
        method="GET", path="/api/functions/stats",
        endpoint=AuthenticatedEndpoint(functions.stats, "read"),
        summary="Show how many containers of each function are ready, booting and busy.",
        answers={200: schemas.Pools},
    ),
    Operation(
        method="POST", path="/api/functions/reload",
        endpoint=AuthenticatedEndpoint(functions.reload, "admin"),
        summary="Read the functions' directory again.",
        answers={200: schemas.FunctionList},
    ),
    Operation(
        method="GET", path="/api/functions/{name}",
        endpoint=AuthenticatedEndpoint(functions.show, "read"),
        summary="Show a function.",
        parameters=(_NAME,), answers={200: schemas.FunctionDetails}, refusals=(404, 422),
    ),
    Operation(
        method="GET", path="/api/executions",
        endpoint=AuthenticatedEndpoint(executions.list_executions, "read", own=True),
        summary="List executions, newest first.",
        parameters=(
            in_query("function", TEXT, "Only of this function."),
            in_query("status", {"enum": list(get_args(Status))}, "Only with this status."),
            in_query("caller", TEXT, "Only of this caller. Needs the scope `read`."),
            in_query("limit", _LIMIT, "How many."),
            in_query("before", TEXT, "`next` of the page before."),
        ),
        answers={200: schemas.ExecutionPage},
    ),
    Operation(
        method="GET", path="/api/executions/{id}",
        endpoint=AuthenticatedEndpoint(executions.show, "read", own=True),
        summary="Show an execution.",
        parameters=(_ID,), answers={200: Execution}, refusals=(404,),
    ),
    Operation(
        method="DELETE", path="/api/executions/{id}",
        endpoint=AuthenticatedEndpoint(executions.cancel, "admin", own=True),
        summary="Cancel an execution: kill it if it runs, never run it if it is queued.",
        parameters=(_ID,),
        answers={202: described("The execution is cancelled.")}, refusals=(404, 409),
    ),
    Operation(
        method="GET", path="/api/executions/{id}/logs",
        # A client that follows a log does not keep the service from ending.
        endpoint=AuthenticatedEndpoint(executions.logs, "read", own=True, drained=False),
        summary="Follow an execution's log as server-sent events, live while it runs.",
        parameters=(_ID,),
        answers={200: described("The log.", events("log", "execution"))}, refusals=(404,),
    ),
    Operation(
        method="POST", path="/api/executions/{id}/retry",
        endpoint=AuthenticatedEndpoint(executions.retry, "admin", own=True),
        summary="Queue a dead execution again.",
        parameters=(_ID,),
        answers=ACCEPTED, refusals=(404, 409),
    ),
    _WEBHOOK,
    replace(
        _WEBHOOK,
        path="/api/webhooks/{function}/{source}",
        parameters=(in_path("function"), in_path("source")),
    ),
    Operation(
        method="POST", path="/api/tokens/introspect",
        endpoint=AuthenticatedEndpoint(introspection.introspect, "read"),
        summary="Say whether an internal token is valid (RFC 7662).",
        body={"application/x-www-form-urlencoded": {"schema": OBJECT | {
            "required": ["token"], "properties": {"token": TEXT | {"minLength": 1}},
        }}},
        answers={200: schemas.TokenInfo}, refusals=(408,),
    ),
    Operation(
        method="GET", path="/.well-known/jwks.json",
        endpoint=PublicEndpoint(introspection.jwks),
        summary="Show the public key that verifies internal tokens.",
        answers={200: described("A JSON Web Key Set.", json_of(OBJECT))},
    ),
    Operation(
        method="GET", path="/healthz",
        endpoint=PublicEndpoint(health.healthz),
        summary="Check that the process is alive.",
        answers={200: schemas.Health},
    ),
    Operation(
        method="GET", path="/readyz",
        endpoint=PublicEndpoint(health.readyz),
        summary="Check that the server can run functions.",
        answers={
            200: described("It can.", json_of(ref(schemas.ReadinessReport))),
            503: described("It cannot; or there is no free connection.",
                           json_of(ref(schemas.ReadinessReport)) | _OR_A_PROBLEM),
        },
    ),
    Operation(
        method="GET", path="/metrics",
        endpoint=AuthenticatedEndpoint(health.metrics, "read"),
        summary="Show the metrics, for Prometheus.",
        answers={200: described("The metrics.", {"text/plain": {"schema": TEXT}})},
    ),
    Operation(
        method="GET", path="/openapi.json",
        endpoint=PublicEndpoint(_openapi),
        summary="Describe these operations for programs.",
        answers={200: described("An OpenAPI 3.1 document.", json_of(OBJECT))},
    ),
    Operation(
        method="GET", path="/docs",
        endpoint=PublicEndpoint(api_page.show),
        summary="Describe these operations for people.",
        answers={200: described("Swagger UI.", {"text/html": {"schema": TEXT}})},
    ),
    Operation(
        method="GET", path="/docs/{file}",
        endpoint=PublicEndpoint(api_page.asset),
        summary="Load a file of that page.",
        answers={},
        documented=False,
    ),
)
# fmt: on

# The first segments of these paths. Routes of functions cannot begin with them.
RESERVED: Final = frozenset(operation.path.split("/")[1] for operation in OPERATIONS)


@cache
def openapi_document(*, authentication: bool = True) -> dict[str, Any]:
    """The OpenAPI document of a server with or without authentication."""
    return document(OPERATIONS, authentication=authentication)
