"""Answers that are no function's response: `application/problem+json` (RFC 9457).

The members that the contract gives an error are there too, so that a client may read either.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from sandbox.errors import CODES, Code, OverloadedError, SandboxError, UnauthenticatedError
from sandbox.models import dump_json
from sandbox.server.auth.authentication import CHALLENGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.exceptions import HTTPException
    from starlette.requests import Request

MEDIA_TYPE: Final = "application/problem+json"
_OURS: Final = frozenset({Code.INTERNAL, Code.ENGINE_UNAVAILABLE, Code.DATABASE_UNAVAILABLE})


def about(request: Request) -> dict[str, str]:
    """Which request a problem is of."""
    return {"request_id": request.state.request_id, "instance": request.scope["path"]}


def problem_from_error(error: SandboxError, *, request_id: str, instance: str) -> Response:
    """The answer to what the platform failed for, or refused."""
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = CHALLENGE
    details = dict(error.details) | ({"hint": error.hint} if error.hint else {})
    message = error.message
    if error.code in _OURS:  # where things are, and what they say, is for the server's log
        message, details = CODES[error.code].meaning, {}
    return problem(
        error.http_status,
        error.code,
        message,
        details=details,
        request_id=request_id,
        instance=instance,
        headers=headers,
    )


def problem_from_http(error: HTTPException, *, request_id: str, instance: str) -> Response:
    """The answer to a request that HTTP itself rules out: no such path, method, or media type."""
    return problem(
        error.status_code,
        Code.INVALID_REQUEST if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
        else Code.INTERNAL,
        error.detail,
        request_id=request_id,
        instance=instance,
        headers=error.headers,
    )  # fmt: skip


def problem(  # noqa: PLR0913
    status: int,
    code: Code,
    message: str,
    *,
    request_id: str,
    instance: str,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document: the fields of RFC 9457, then those of the contract."""
    document = {
        "type": f"urn:alyx-sandbox:error:{code}",
        "title": CODES[code].meaning,
        "status": status,
        "detail": message,
        "instance": instance,
        "request_id": request_id,
        "success": False,
        "error": {"code": code, "message": message, "details": dict(details or {})},
    }
    return Response(dump_json(document), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def status_of(code: str | None) -> int:
    """The HTTP status of a function's response with that error code; None is success."""
    try:
        return CODES[Code(code)].http_status if code else HTTPStatus.OK
    except ValueError:  # the function's own
        return HTTPStatus.OK
