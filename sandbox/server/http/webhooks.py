"""Webhooks: the signature of the body is checked before the function runs."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from sandbox.call import Call
from sandbox.errors import OverloadedError, UnauthenticatedError
from sandbox.functions.manifest import resolve
from sandbox.server.auth.callers import Caller
from sandbox.server.events.signatures import SignatureScheme, is_genuine
from sandbox.server.http.body import read_body
from sandbox.server.http.functions import respond
from sandbox.server.http.request_input import body_as_input, request_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from sandbox.server.events.registrar import Webhook
    from sandbox.server.service import Service

# Anybody may send a body here, so this process reads only a few large ones at once.
SMALL: Final = 64 * 1024  # bytes
MOST_LARGE: Final = 32


class _NotKeptError(Exception):
    """Carries an answer that is not kept for the delivery's id: the sender may deliver again."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer


class _LargeBodies:
    """Counts the large bodies that are being read. Used by one event loop only."""

    def __init__(self) -> None:
        self._count = 0

    @contextlib.contextmanager
    def reading(self, length: str) -> Iterator[None]:
        """Count a body of that `Content-Length` while it is read.

        Raises:
            OverloadedError: it is large, and too many large bodies are being read.
        """
        if length.isascii() and length.isdigit() and int(length[:20]) <= SMALL:
            yield
            return
        if self._count >= MOST_LARGE:
            raise OverloadedError("too many large bodies are on their way", retry_after=1.0)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


_large_bodies: Final = _LargeBodies()


async def receive(request: Request, service: Service) -> Response:
    """`POST /api/webhooks/{function}` and `/api/webhooks/{function}/{source}`.

    The answer to a wrong signature does not reveal whether the webhook exists.

    Raises:
        UnauthenticatedError: there is no such webhook, or the signature is wrong.
        SandboxError, HTTPException: see `read_body` and `Dispatcher`.
    """
    function = request.path_params["function"]
    settings = service.settings.server
    with _large_bodies.reading(request.headers.get("content-length", "")):
        body = await read_body(request, most=settings.limits.body, patience=settings.patience)
        webhook = service.registrar.webhook(function, request.path_params.get("source"))
        genuine = _is_genuine(request, service, webhook, body)
    if webhook is None or not genuine:
        raise UnauthenticatedError("no webhook of that name takes what was sent")
    caller = Caller(
        id=f"webhook:{function}",
        scopes=frozenset({"invoke"}),
        functions=(function,),
        limits=settings.limits,
    )
    request.state.caller = caller.id
    with service.limiter.admit(caller):
        document = body_as_input(body, request.headers.get("content-type", ""))
        call = Call(
            function=function,
            input=document,
            timeout=webhook.config.timeout,
            caller=caller.id,
            trigger="webhook",
            request_id=request.state.execution_id,
            traceparent=request.headers.get("traceparent"),
        )
        return await _answer_once(request, service, call, webhook)


def _is_genuine(request: Request, service: Service, webhook: Webhook | None, body: bytes) -> bool:
    if webhook is None:
        return is_genuine("", body, secret=None, scheme=SignatureScheme(), now=0)
    verification, config = webhook.verification, webhook.config
    try:
        secret = resolve(verification.secret, service.sandbox.secrets)
    except KeyError:  # the operator has not set this secret
        secret = None
    is_stripe = verification.header.lower() == "stripe-signature"
    scheme = SignatureScheme(
        algorithm=verification.type,
        form=config.format or ("stripe" if is_stripe else "plain"),
        tolerance=config.tolerance,
    )
    value = request.headers.get(verification.header, "")
    return is_genuine(value, body, secret=secret, scheme=scheme, now=time.time())


async def _answer_once(
    request: Request, service: Service, call: Call, webhook: Webhook
) -> Response:
    """Invoke the function once for each delivery. A repeated delivery gets the first answer."""
    header = webhook.config.delivery_header
    delivery = request.headers.get(header) if header else None
    wait = webhook.hook.mode == "sync"
    respond_to = partial(
        respond,
        service=service,
        wait=wait,
        output_only=webhook.config.answer == "output",
    )
    described = _request_without_signature(request, webhook)
    whole = replace(call, input={**call.input, "_request": described})
    if delivery is None:
        return await respond_to(request, call=whole)
    key = hashlib.sha256(f"{webhook.hook.source}\n{delivery}".encode()).hexdigest()
    # `call`, not `whole`: `_request` has the time of the signature, which differs each time.
    once = service.idempotency.once(key, call, wait=wait, threads=service.working)
    try:
        async with once as kept:
            if kept.answer is None:
                answered = await respond_to(None, call=whole)
                if answered.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise _NotKeptError(answered)
                kept.answer = answered
            return kept.answer
    except _NotKeptError as failed:
        return failed.answer


def _request_without_signature(request: Request, webhook: Webhook) -> dict[str, object]:
    """`_request`. With the signature, a function could try secrets until one matches."""
    document = request_document(request, {})
    document["headers"].pop(webhook.verification.header.lower(), None)
    return {**document, "source": webhook.hook.source, "action": webhook.hook.action}
