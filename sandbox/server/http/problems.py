"""Answers that are no function's response: `application/problem+json` (RFC 9457).

The members that the contract gives an error are there too, so that a client may read either.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.responses import Response

from sandbox.errors import CODES, Code, OverloadedError, SandboxError, UnauthenticatedError
from sandbox.models import FunctionError, dump_json
from sandbox.server.auth.authentication import CHALLENGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    from sandbox.server.http.schemas import ProblemDocument

MEDIA_TYPE: Final = "application/problem+json"
_OURS: Final = frozenset({Code.INTERNAL, Code.ENGINE_UNAVAILABLE, Code.DATABASE_UNAVAILABLE})


class Subject(NamedTuple):
    """The request that a problem is about: its id and its path."""

    request_id: str
    path: str


def about(request: Request) -> Subject:
    """The subject of a problem with this request."""
    return Subject(request.state.request_id, request.scope["path"])


def problem_from_error(error: SandboxError, subject: Subject) -> Response:
    """The answer to a failure or a refusal of the platform."""
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = CHALLENGE
    details = dict(error.details) | ({"hint": error.hint} if error.hint else {})
    told = FunctionError(code=error.code, message=error.message, details=details)
    if error.code in _OURS:  # where things are, and what they say, is for the server's log
        told = FunctionError(code=error.code, message=CODES[error.code].meaning)
    return problem(error.http_status, told, subject, headers=headers)


def problem_from_http(error: HTTPException, subject: Subject) -> Response:
    """The answer to a request that HTTP itself rules out: no such path, method, or media type."""
    ours = error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = Code.INTERNAL if ours else Code.INVALID_REQUEST
    told = FunctionError(code=code, message=error.detail)
    return problem(error.status_code, told, subject, headers=error.headers)


def problem(
    status: int,
    error: FunctionError,
    subject: Subject,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document: the fields of RFC 9457, then those of the contract."""
    document: ProblemDocument = {
        "type": f"urn:alyx-sandbox:error:{error.code}",
        "title": CODES[Code(error.code)].meaning,
        "status": status,
        "detail": error.message,
        "instance": subject.path,
        "request_id": subject.request_id,
        "success": False,
        "error": error.to_dict(),
    }
    return Response(dump_json(document), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def status_of(code: str | None) -> int:
    """The HTTP status of a function's response with that error code; None is success."""
    try:
        return CODES[Code(code)].http_status if code else HTTPStatus.OK
    except ValueError:  # the function's own
        return HTTPStatus.OK
