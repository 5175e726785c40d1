"""Internal tokens over HTTP: introspection (RFC 7662), and the key that verifies them."""

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
    from sandbox.server.http.schemas import TokenInfo
    from sandbox.server.service import Service

_FORM: Final = "application/x-www-form-urlencoded"
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# Caches keep it for a short time only: without a key file, each start makes another key.
_CACHED: Final = {"Cache-Control": "public, max-age=60"}


async def introspect(request: Request, _: Caller, service: Service) -> Response:
    """`POST /api/tokens/introspect`.

    Raises:
        InvalidRequestError: the body is not a form with one `token`.
        HTTPException: 408 if the body comes too slowly.
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
    except InvalidTokenError:  # RFC 7662: the answer does not say why
        return JSONResponse({"active": False}, headers=_NO_STORE)
    info: TokenInfo = {
        "active": True,
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": claims.function,
        "jti": claims.id,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "function": claims.function,
        "request_id": claims.request_id,
    }
    return JSONResponse(info, headers=_NO_STORE)


async def jwks(_: Request, service: Service) -> Response:
    """`GET /.well-known/jwks.json`."""
    return JSONResponse(service.tokens.public_jwks(), headers=_CACHED)


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
