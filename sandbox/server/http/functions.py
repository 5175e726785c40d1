"""Functions over HTTP: invoke, list, show, reload, and the state of their pools."""

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
from sandbox.server.http.executions import accepted, own_patience
from sandbox.server.http.problems import status_of
from sandbox.server.http.responses import JSON, document
from sandbox.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from sandbox.functions.function import Function
    from sandbox.models import FunctionResponse
    from sandbox.server.auth.callers import Caller
    from sandbox.server.http.schemas import (
        FunctionDetails,
        Functions,
        FunctionSummary,
        Pools,
    )
    from sandbox.server.service import Service

# How a trusted caller says for whom it calls: `context.auth`, as JSON.
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
    return await answer(request, service, completed(call, request, caller))


def completed(call: Call, request: Request, caller: Caller) -> Call:
    """The call with what its request says besides: for whom it is, and how long it may take.

    Raises:
        ForbiddenError: it is for somebody else, and the caller may not call for others.
        InvalidRequestError: `timeout` or the identity cannot be read.
    """
    return replace(
        call,
        auth=_auth(request, caller),
        timeout=_timeout(request),
        caller=caller.id,
        request_id=request.state.execution_id,
        traceparent=request.headers.get("traceparent"),
    )


async def answer(request: Request, service: Service, call: Call) -> Response:
    """Run a call and answer with its response; with its id or as a stream, where asked for."""
    key = request.headers.get("idempotency-key")
    wait = _flag(request, "wait", default=True)
    streamed = EVENT_STREAM in request.headers.get("accept", "")
    if streamed and wait:
        if key is not None:
            raise InvalidRequestError("a stream cannot be sent again: no Idempotency-Key with it")
        events = invocation_events(request, service, call)
        return event_response(events, own_patience(service))
    if key is None:
        return await respond(request, service, call, wait=wait)
    async with service.idempotency.once(key, call, wait=wait, threads=service.working) as kept:
        if kept.answer is None:
            kept.answer = await respond(None, service, call, wait=wait)
        return kept.answer


async def respond(
    request: Request | None, service: Service, call: Call, *, wait: bool, output_only: bool = False
) -> Response:
    """Run a call and answer with its response, or put it into the queue and answer 202.

    Without `request`, the invocation goes on when the client goes away: it may ask again.
    With `output_only`, the answer is the output alone, and a failure of the function's is 500.
    """
    if not wait:
        return accepted(await service.working.run(service.dispatcher.submit, call))
    if request is None:
        response = await service.invoking.run(service.dispatcher.steps(call))
    else:
        response = await _run(request, service, call)
    if output_only and response.success:
        return Response(dump_json(response.output), media_type=JSON)
    # A function's own failure is an answer, whatever code it has.
    answered = HTTPStatus.INTERNAL_SERVER_ERROR if output_only else HTTPStatus.OK
    code = response.error.code if response.error else None
    status = answered if response.answered else status_of(code)
    return await document(response, status)


async def _run(request: Request, service: Service, call: Call) -> FunctionResponse:
    """Invoke while the client is there; without it, the function is killed."""
    cancellation = Cancellation()
    gone = asyncio.ensure_future(_until_gone(request, cancellation))
    try:
        return await service.invoking.run(service.dispatcher.steps(call, cancellation=cancellation))
    except asyncio.CancelledError:
        cancellation.cancel()
        raise
    finally:
        gone.cancel()


async def list_functions(request: Request, caller: Caller, service: Service) -> Response:  # noqa: ARG001
    """`GET /api/functions`."""
    sandbox = service.sandbox
    listed: Functions = {
        "functions": [_summary(function) for function in sandbox.functions.values()],
        "problems": [problem.to_dict() for problem in sandbox.problems],
    }
    return JSONResponse(listed)


async def show(request: Request, caller: Caller, service: Service) -> Response:  # noqa: ARG001
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
        # Only their names: values may be the operator's secrets.
        "env": sorted(manifest.env),
        "manifest": shown,
    }
    return JSONResponse(details)


async def stats(request: Request, caller: Caller, service: Service) -> Response:  # noqa: ARG001
    """`GET /api/functions/stats`."""
    pools = {
        name: dict(state) | {"total": _total(state)}
        for name, state in service.sandbox.pool_states().items()
    }
    figures: Pools = {"pools": pools, "running": service.dispatcher.running}
    return JSONResponse(figures)


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


def _flag(request: Request, name: str, *, default: bool) -> bool:
    text = request.query_params.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise InvalidRequestError(f"{name} is true or false")
    return text == "true"


async def _until_gone(request: Request, cancellation: Cancellation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancellation.cancel()
