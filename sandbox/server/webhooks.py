"""Webhooks: a sender proves itself by an HMAC of the body before anything is started."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final

from sandbox.errors import UnauthenticatedError
from sandbox.manifest import resolve
from sandbox.server.body import read_body
from sandbox.server.callers import Caller
from sandbox.server.functions import answer, make_call
from sandbox.server.inbound import body_as_input, request_document
from sandbox.server.records import accepted
from sandbox.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from sandbox.manifest import Verification
    from sandbox.server.service import Service

_HASHES: Final = {"hmac-sha256": hashlib.sha256, "hmac-sha1": hashlib.sha1}
# How old a signature with a time in it may be, in seconds, unless `config.tolerance` says so.
TOLERANCE: Final = 300.0
_NOBODY: Final = "no webhook of that name takes what was sent"


async def receive(request: Request, service: Service) -> Response:
    """`POST /api/webhooks/{function}` and `/api/webhooks/{function}/{source}`.

    Whether there is such a webhook is told to nobody who cannot sign for it.
    """
    function = request.path_params["function"]
    source = request.path_params.get("source", "")
    settings = service.settings.server
    caller = Caller(
        id=f"webhook:{function}",
        scopes=frozenset({"invoke"}),
        functions=(function,),
        limits=settings.limits,
    )
    body = await read_body(request, most=settings.limits.body, patience=settings.patience)
    hook = service.registrar.webhook(function, source)
    genuine = False
    if hook is not None and hook.verification is not None:
        tolerance = parse_duration(str(hook.config.get("tolerance", TOLERANCE)))
        genuine = is_genuine(
            hook.verification,
            service.sandbox.secrets,
            value=request.headers.get(hook.verification.header, ""),
            body=body,
            tolerance=tolerance,
            now=time.time(),
        )
    else:
        hmac.digest(b"nobody", body, "sha256")  # so that it takes as long
    if hook is None or not genuine:
        raise UnauthenticatedError(_NOBODY)
    request.state.caller = caller.id
    with service.limiter.admit(caller):
        document = body_as_input(body, request.headers.get("content-type", ""))
        document["_request"] = request_document(request, {})
        call = make_call(request, caller, function, input=document, trigger="webhook")
        if hook.mode == "async":
            return accepted(await service.working.run(service.dispatcher.submit, call))
        return await answer(request, service, call)


def is_genuine(  # noqa: PLR0913
    verification: Verification,
    secrets: Mapping[str, str],
    *,
    value: str,
    body: bytes,
    tolerance: float,
    now: float,
) -> bool:
    """Whether the header's `value` signs `body`. Never fails, and compares in constant time.

    Forms: the signature in hex or base64, as it is or after `sha256=` or `sha1=` (as GitHub
    does); or `t=TIME,v1=SIGNATURE` over `TIME.BODY` (as Stripe does), not older than `tolerance`
    seconds.
    """
    try:
        secret = resolve(verification.secret, secrets)
    except KeyError:  # validation has told the operator
        return False
    if not secret:
        return False
    signed, signatures = _parts(value, body, tolerance=tolerance, now=now)
    if signed is None:
        return False
    expected = hmac.new(secret.encode(), signed, _HASHES[verification.type]).digest()
    matches = [hmac.compare_digest(expected, signature) for signature in signatures]
    return any(matches)


def _parts(
    value: str, body: bytes, *, tolerance: float, now: float
) -> tuple[bytes | None, list[bytes]]:
    """What is signed, and the signatures of it; None where there is no such thing."""
    fields = [part.strip().partition("=") for part in value.split(",")]
    moment = next((text for name, _, text in fields if name == "t"), None)
    if moment is None:
        text = value.strip()
        for prefix in ("sha256=", "sha1="):
            text = text.removeprefix(prefix)
        return body, _decoded(text)
    if not (moment.isascii() and moment.isdigit() and len(moment) <= 12):
        return None, []
    if abs(now - int(moment)) > tolerance:
        return None, []
    signatures = [item for name, _, text in fields if name == "v1" for item in _decoded(text)]
    return moment.encode() + b"." + body, signatures


def _decoded(text: str) -> list[bytes]:
    """A signature's bytes, by each form that it may have."""
    found = []
    with contextlib.suppress(ValueError):
        found.append(bytes.fromhex(text))
    with contextlib.suppress(binascii.Error, ValueError):
        found.append(base64.b64decode(text, validate=True))
    return found
