"""Functions over HTTP: invoke, list, show and reload them, and show their pools."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse, Response

from sandbox.call import Call
from sandbox.cancellation import Cancellation
from sandbox.errors import ForbiddenError, InvalidRequestError
from sandbox.models import dump_json
from sandbox.protocol.input import parse_input
from sandbox.protocol.request import parse_auth
from sandbox.server.http.body import read_input
from sandbox.server.http.event_streams import event_response, invocation_events
from sandbox.server.http.executions import accepted_response
from sandbox.server.http.problems import status_of
from sandbox.server.http.responses import JSON, http_response
from sandbox.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from sandbox.functions.function import Function
    from sandbox.models import FunctionResponse
    from sandbox.server.auth.callers import Caller
    from sandbox.server.http.schemas import FunctionDetails, FunctionList, FunctionSummary, Pools
    from sandbox.server.service import Service

# `context.auth` as JSON, from a caller that calls on behalf of somebody else.
AUTH_HEADER: Final = "x-alyx-auth"
EVENT_STREAM: Final = "text/event-stream"


async def invoke(request: Request, caller: Caller, service: Service) -> Response:
    """`POST /api/functions/{name}`."""
    name = request.path_params["name"]
    if not caller.may_invoke(name):
        raise ForbiddenError("this caller may not invoke that function")
    service.sandbox.function(name)
    body = await read_input(
        request, most=service.limiter.body(caller), patience=service.settings.server.patience
    )
    call = Call(function=name, input=body.input, files=body.files)
    return await respond_as_asked(request, service, with_request_options(call, request, caller))


def with_request_options(call: Call, request: Request, caller: Caller) -> Call:
    """The call with the caller, `context.auth`, the time limit and the ids of its request.

    Raises:
        ForbiddenError: `X-Alyx-Auth` from a caller without the scope `impersonate`.
        InvalidRequestError: `timeout` or `X-Alyx-Auth` cannot be read.
    """
    return replace(
        call,
        auth=_auth(request, caller),
        timeout=_timeout(request),
        caller=caller.id,
        request_id=request.state.execution_id,
        traceparent=request.headers.get("traceparent"),
    )


async def respond_as_asked(request: Request, service: Service, call: Call) -> Response:
    """Run a call and answer as the request asks: with the response, with events, or with 202."""
    key = request.headers.get("idempotency-key")
    wait = _wait(request)
    streamed = EVENT_STREAM in request.headers.get("accept", "")
    if streamed and wait:
        if key is not None:
            raise InvalidRequestError("a stream cannot be sent again: no Idempotency-Key with it")
        return event_response(invocation_events(request, service, call), service)
    if key is None:
        return await respond(request, service, call, wait=wait)
    async with service.idempotency.once(key, call, wait=wait, threads=service.working) as kept:
        if kept.answer is None:
            kept.answer = await respond(None, service, call, wait=wait)
        return kept.answer


async def respond(
    request: Request | None, service: Service, call: Call, *, wait: bool, output_only: bool = False
) -> Response:
    """Run a call and answer with its response; without `wait`, queue it and answer 202.

    If the client of `request` goes away, the invocation is cancelled; without `request`, it goes
    on, and the client may ask for the answer later. With `output_only`, the answer is the output
    alone, or 500 if the function failed.
    """
    if not wait:
        return accepted_response(await service.working.run(service.dispatcher.submit, call))
    if request is None:
        response = await service.invoking.run(service.dispatcher.steps(call))
    else:
        response = await _run_while_connected(request, service, call)
    if output_only and response.success:
        return Response(dump_json(response.output), media_type=JSON)
    if response.answered:  # a failure of the function's own is an answer, whatever its code
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR if output_only else HTTPStatus.OK
    else:
        status = status_of(response.error.code if response.error else None)
    return await http_response(response, status)


async def _run_while_connected(request: Request, service: Service, call: Call) -> FunctionResponse:
    """Invoke the function, and kill it if the client goes away."""
    cancellation = Cancellation()
    gone = asyncio.ensure_future(_cancel_when_gone(request, cancellation))
    try:
        return await service.invoking.run(service.dispatcher.steps(call, cancellation=cancellation))
    except asyncio.CancelledError:
        cancellation.cancel()
        raise
    finally:
        gone.cancel()


async def list_functions(_: Request, _caller: Caller, service: Service) -> Response:
    """`GET /api/functions`."""
    sandbox = service.sandbox
    listed: FunctionList = {
        "functions": [_summary(function) for function in sandbox.functions.values()],
        "problems": [problem.to_dict() for problem in sandbox.problems],
    }
    return JSONResponse(listed)


async def show(request: Request, _: Caller, service: Service) -> Response:
    """`GET /api/functions/{name}`."""
    function = service.sandbox.function(request.path_params["name"])
    manifest = function.manifest
    shown = manifest.model_dump(
        mode="json", exclude_defaults=True, exclude={"env", "hooks", "name"}
    )
    pool = service.sandbox.pool_states().get(function.name)
    details: FunctionDetails = {
        **_summary(function),
        "version": str(pool["version"]) if pool else None,
        # Without values: they may be secrets of the operator.
        "env": sorted(manifest.env),
        "manifest": shown,
    }
    return JSONResponse(details)


async def stats(_: Request, _caller: Caller, service: Service) -> Response:
    """`GET /api/functions/stats`."""
    pools = {
        name: dict(state) | {"total": _total(state)}
        for name, state in service.sandbox.pool_states().items()
    }
    shown: Pools = {"pools": pools, "running": service.dispatcher.running}
    return JSONResponse(shown)


async def reload(request: Request, caller: Caller, service: Service) -> Response:
    """`POST /api/functions/reload`."""
    await service.working.run(service.sandbox.reload)
    return await list_functions(request, caller, service)


def _summary(function: Function) -> FunctionSummary:
    return {
        "name": function.name,
        "runtime": function.runtime,
        "interface": function.interface,
        "description": function.manifest.description,
        "sample_input": function.manifest.sample_input,
        "routes": [route.model_dump(mode="json") for route in function.manifest.routes],
    }


def _total(state: Mapping[str, object]) -> int:
    counts = [state[name] for name in ("ready", "booting", "busy")]
    return sum(count for count in counts if isinstance(count, int))


def _auth(request: Request, caller: Caller) -> Mapping[str, Any] | None:
    text = request.headers.get(AUTH_HEADER)
    if text is None:
        return caller.auth
    if not caller.may("impersonate"):
        raise ForbiddenError("this needs a caller with the scope impersonate")
    return parse_auth(parse_input(text.encode("latin-1"))).model_dump()


def _timeout(request: Request) -> float | None:
    text = request.query_params.get("timeout")
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidRequestError(f"timeout: {error}") from None


def _wait(request: Request) -> bool:
    text = request.query_params.get("wait", "true")
    if text not in ("true", "false"):
        raise InvalidRequestError("wait is true or false")
    return text == "true"


async def _cancel_when_gone(request: Request, cancellation: Cancellation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancellation.cancel()
