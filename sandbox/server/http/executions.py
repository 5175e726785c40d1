"""Executions over HTTP: list, show, cancel and retry them, and follow their logs."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, get_args

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from sandbox.errors import ForbiddenError, InvalidRequestError
from sandbox.executions.model import TIMES, Execution, ExecutionQuery, Status
from sandbox.executions.queries import MOST_LISTED
from sandbox.server.http.event_streams import event_response, log_events

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandbox.server.auth.callers import Caller
    from sandbox.server.service import Service

PATH: Final = "/api/executions"
_ID: Final = re.compile(r"[\x21-\x7e]{1,255}")
_FIELDS: Final = tuple(field.name for field in fields(Execution))


def to_document(execution: Execution) -> dict[str, Any]:
    """An execution as JSON values: times as RFC 3339, `response` only if it is kept."""
    document: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(execution, name)
        if name in TIMES and value is not None:
            moment = datetime.fromtimestamp(value, UTC)
            value = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document[name] = value
    if execution.response is None:
        del document["response"]
    return document


def accepted_response(execution: Execution) -> Response:
    """202: the execution is queued; `Location` says where to look for its response."""
    return JSONResponse(
        to_document(execution),
        HTTPStatus.ACCEPTED,
        headers={"Location": f"{PATH}/{execution.id}"},
    )


async def list_executions(request: Request, caller: Caller, service: Service) -> Response:
    """`GET /api/executions`: of all callers with the scope `read`, else only of this caller."""
    query = request.query_params
    if any("\0" in value for value in query.values()):  # databases refuse it in a text
        raise InvalidRequestError("a parameter has a NUL in it")
    status = query.get("status")
    if status is not None and status not in get_args(Status):
        raise InvalidRequestError(f"status is one of {', '.join(get_args(Status))}")
    limit = query.get("limit", "50")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST_LISTED):
        raise InvalidRequestError(f"limit is a number from 1 to {MOST_LISTED}")
    page = await service.working.run(
        service.dispatcher.list,
        ExecutionQuery(
            function=query.get("function"),
            status=status,  # type: ignore[arg-type]
            caller=query.get("caller") if caller.may("read") else caller.id,
            limit=int(limit),
            before=query.get("before"),
        ),
    )
    listed = [to_document(execution) for execution in page.executions]
    return JSONResponse({"executions": listed, "next": page.next})


async def show(request: Request, caller: Caller, service: Service) -> Response:
    """`GET /api/executions/{id}`."""
    return JSONResponse(to_document(await _find(request, caller, service)))


async def cancel(request: Request, caller: Caller, service: Service) -> Response:
    """`DELETE /api/executions/{id}`: 202 if it is cancelled, 409 if it had ended before."""
    execution = await _find(request, caller, service)
    _check_change(execution, caller)
    if not await service.working.run(service.dispatcher.cancel, execution.id):
        raise HTTPException(HTTPStatus.CONFLICT, "it has ended already")
    return Response(status_code=HTTPStatus.ACCEPTED)


async def retry(request: Request, caller: Caller, service: Service) -> Response:
    """`POST /api/executions/{id}/retry`: 409 unless the execution is dead."""
    execution = await _find(request, caller, service)
    _check_change(execution, caller)
    if execution.status != "dead":
        raise HTTPException(HTTPStatus.CONFLICT, "only an execution that is dead can be retried")
    return accepted_response(await service.working.run(service.dispatcher.retry, execution.id))


async def logs(request: Request, caller: Caller, service: Service) -> Response:
    """`GET /api/executions/{id}/logs`, as server-sent events."""
    execution = await _find(request, caller, service)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    follower = service.dispatcher.follow(execution.id)
    return event_response(log_events(request, service, follower, to_document), service)


async def _find(request: Request, caller: Caller, service: Service) -> Execution:
    """The execution in the path. For other callers without the scope `read` it does not exist."""
    id = request.path_params["id"]  # noqa: A001 - the field's name
    if not _ID.fullmatch(id):
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such execution")
    execution = await service.working.run(service.dispatcher.get, id)
    if execution is None or not (execution.caller == caller.id or caller.may("read")):
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such execution")
    return execution


def _check_change(execution: Execution, caller: Caller) -> None:
    if execution.caller != caller.id and not caller.may("admin"):
        raise ForbiddenError("another caller's execution: this needs the scope admin")
