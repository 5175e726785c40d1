"""Authenticates a request: an API key or a JSON Web Token becomes a `Caller`.

Both come as `Authorization: Bearer …`, a key also as `X-API-Key`. A refused client learns that it
is refused, and not why; the log says why. After too many failures in a minute, an address gets
429 for each further one, and the log says no more about it. A good credential is still accepted
from there: other clients may share the address, and no number of guesses finds a random secret.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from sandbox.config.server_settings import LOOPBACK
from sandbox.errors import ForbiddenError, OverloadedError, UnauthenticatedError
from sandbox.server.auth.api_key_verifier import ApiKeyVerifier
from sandbox.server.auth.api_keys import KeyStore
from sandbox.server.auth.callers import ALL_SCOPES, Caller
from sandbox.server.auth.credentials import CredentialRefusedError, credential_of
from sandbox.server.auth.jwt_verifier import JwtVerifier

if TYPE_CHECKING:
    import sqlalchemy as sa
    from starlette.datastructures import Headers

    from sandbox.config.server_settings import ServerSettings
    from sandbox.server.auth.credentials import Verifier

log = logging.getLogger(__name__)

# The header `WWW-Authenticate` of a 401 (RFC 6750, section 3).
CHALLENGE: Final = 'Bearer realm="alyx-sandbox"'
ANONYMOUS: Final = Caller(id="anonymous", scopes=ALL_SCOPES)
# Failures of one address that get a 401 and a line in the log; all above get 429.
FAILURES: Final = RateLimitItemPerMinute(30)


class Authenticator:
    """Finds a request's caller. The first verifier that recognizes the credential decides."""

    def __init__(self, settings: ServerSettings, *, verifiers: tuple[Verifier, ...] = ()) -> None:
        self._settings = settings
        self._verifiers = verifiers
        self._failures = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def authenticate(self, headers: Headers, *, client: str = "") -> Caller:
        """The caller whose credential is in `headers`. `client` is the request's source address.

        Raises:
            UnauthenticatedError: no good credential; the answer has `CHALLENGE` as a header.
            OverloadedError: no good credential, and `client` has failed too often.
            ForbiddenError: authentication is off, and a web page sent the request.
        """
        if self._settings.authentication == "none":
            self._refuse_web_pages(headers)
            return ANONYMOUS
        try:
            credential = credential_of(headers)
            for verifier in self._verifiers:
                if verifier.recognizes(credential):
                    return await verifier.verify(credential)
            raise CredentialRefusedError("it is neither an API key nor a token of an accepted kind")
        except CredentialRefusedError as refused:
            raise self._failed(client, str(refused)) from None

    def close(self) -> None:
        for verifier in self._verifiers:
            verifier.close()

    def _failed(self, client: str, reason: str) -> UnauthenticatedError | OverloadedError:
        address = _network(client)
        if not self._failures.hit(FAILURES, address):
            reset, _ = self._failures.get_window_stats(FAILURES, address)
            return OverloadedError(
                "too many requests from this address without a valid credential",
                retry_after=round(max(reset - time.time(), 1.0), 3),
            )
        log.warning("refused a request from %s: %s", address or "an unknown address", reason)
        return UnauthenticatedError(
            "the request needs a valid API key or token",
            hint="send `Authorization: Bearer …`",
        )

    def _refuse_web_pages(self, headers: Headers) -> None:
        """Refuse requests that a web page in a browser on this machine sends.

        A browser sends a form to any address without asking first, and the page's own host name
        can resolve to loopback.
        """
        host = _host_name(f"//{headers.get('host', '')}")
        if host is not None and host not in LOOPBACK | {self._settings.host}:
            raise ForbiddenError(
                "without authentication, `Host` must be a name of this machine",
                hint="use 127.0.0.1 or localhost, or set `server.authentication: required`",
            )
        origin = headers.get("origin")
        if origin in self._settings.cors:
            return
        # An image or a link sends no `Origin`; a browser tells of these by its fetch metadata.
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign or (origin is not None and origin.partition("://")[2] != headers.get("host")):
            raise ForbiddenError(
                "web pages of this origin may not call",
                hint="allow the origin in `server.cors`",
            )


def build_authenticator(settings: ServerSettings, database: sa.Engine) -> Authenticator:
    """An authenticator for the database's API keys and, with `server.jwt`, for tokens.

    Raises:
        DatabaseUnavailableError: the database cannot be used.
    """
    if settings.authentication == "none":
        return Authenticator(settings)
    verifiers: tuple[Verifier, ...] = (ApiKeyVerifier(KeyStore(database), settings.limits),)
    if settings.jwt is not None:
        verifiers += (JwtVerifier(settings.jwt, settings.limits),)
    return Authenticator(settings, verifiers=verifiers)


def _host_name(url: str) -> str | None:
    """The host of `url`, without a port; "" if it cannot be parsed."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return ""


def _network(client: str) -> str:
    """What failures are counted by: an IPv4 address, or the /64 that an IPv6 subscriber has."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:  # from a Unix socket, or as a proxy passed it on
        return ""
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
