"""Problem documents: `application/problem+json` (RFC 9457), where no function has answered.

They also have the fields that an error has in the contract, so that a client may read either.
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
# Their messages may name places on the server's machine, so that only its log gets them.
_CONFIDENTIAL: Final = frozenset(
    {Code.INTERNAL, Code.ENGINE_UNAVAILABLE, Code.DATABASE_UNAVAILABLE}
)


class Subject(NamedTuple):
    """The request that a problem is about: its id and its path."""

    request_id: str
    path: str


def subject_of(request: Request) -> Subject:
    """The subject of a problem with this request."""
    return Subject(request.state.request_id, request.scope["path"])


def problem_from_error(error: SandboxError, subject: Subject) -> Response:
    """The problem document of a failure or a refusal of the platform."""
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = CHALLENGE
    shown = FunctionError(**error.to_dict())
    if error.code in _CONFIDENTIAL:
        shown = FunctionError(code=error.code, message=CODES[error.code].meaning)
    return problem(error.http_status, shown, subject, headers=headers)


def problem_from_http(error: HTTPException, subject: Subject) -> Response:
    """The problem document of a path, a method or a body that the server does not take."""
    is_defect = error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = Code.INTERNAL if is_defect else Code.INVALID_REQUEST
    shown = FunctionError(code=code, message=error.detail)
    return problem(error.status_code, shown, subject, headers=error.headers)


def problem(
    status: int,
    error: FunctionError,
    subject: Subject,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
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
    """The HTTP status of a function's response with that error code; None means success."""
    try:
        return CODES[Code(code)].http_status if code else HTTPStatus.OK
    except ValueError:  # a code of the function's own
        return HTTPStatus.OK
