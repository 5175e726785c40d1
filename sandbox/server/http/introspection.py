"""Internal tokens over HTTP: whether one is valid (RFC 7662), and the key that signs them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sandbox.errors import InvalidRequestError
from sandbox.tokens import AUDIENCE, ISSUER, LONGEST, InvalidTokenError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from sandbox.server.auth.callers import Caller
    from sandbox.server.service import Service

_FORM: Final = "application/x-www-form-urlencoded"
_NOT_KEPT: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# A key in the file outlives restarts; without a file, it is another after each.
_KEPT: Final = {"Cache-Control": "public, max-age=60"}


async def introspect(request: Request, caller: Caller, service: Service) -> Response:  # noqa: ARG001
    """`POST /api/tokens/introspect`: what a token says, or only that it is not active.

    Raises:
        InvalidRequestError: the body is no form with one `token`.
        HTTPException: 408, the body comes too slowly.
    """
    try:
        async with asyncio.timeout(service.settings.server.patience):
            token = await _token(request)
    except TimeoutError:
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT, "the body comes too slowly", {"Connection": "close"}
        ) from None
    try:
        claims = service.tokens.validate(token)
    except InvalidTokenError:  # why is nobody's business
        return JSONResponse({"active": False}, headers=_NOT_KEPT)
    return JSONResponse(
        {
            "active": True,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": claims.function,
            "jti": claims.id,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "function": claims.function,
            "request_id": claims.request_id,
        },
        headers=_NOT_KEPT,
    )


async def jwks(request: Request, service: Service) -> Response:  # noqa: ARG001
    """`GET /.well-known/jwks.json`: the public key, for whoever checks tokens without us."""
    return JSONResponse(service.tokens.public_jwks(), headers=_KEPT)


async def _token(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise InvalidRequestError(f"the body is no form: send it as {_FORM}")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 2 * LONGEST:
            raise InvalidRequestError("the form is too large to hold a token")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=10)
    except ValueError:
        raise InvalidRequestError("the body is no form that can be read") from None
    values = fields.get("token", [])
    if len(values) != 1:
        raise InvalidRequestError("the form needs one field `token`")
    return values[0]
