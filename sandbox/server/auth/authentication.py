"""Who calls: an API key or a JSON Web Token becomes a `Caller`.

Both come as `Authorization: Bearer …`, a key also as `X-API-Key`. Whoever cannot be let in is
told so and not why; why is logged. Of one address, only so many failures in a minute are looked
into: what comes then is answered with 429, and no longer logged. What proves itself is let in all
the same, since others may be behind that address, and no number of guesses finds a random secret.
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
from sandbox.server.auth.callers import ALL_SCOPES, Caller
from sandbox.server.auth.credentials import CredentialRefusedError, credential_of
from sandbox.server.auth.jwt_verifier import JwtVerifier
from sandbox.server.auth.key_verifier import KeyVerifier
from sandbox.server.auth.keys import KeyStore

if TYPE_CHECKING:
    import sqlalchemy as sa
    from starlette.datastructures import Headers

    from sandbox.config.server_settings import ServerSettings
    from sandbox.server.auth.credentials import Verifier

log = logging.getLogger(__name__)

# The header `WWW-Authenticate` of a 401 (RFC 6750, section 3).
CHALLENGE: Final = 'Bearer realm="alyx-sandbox"'
ANONYMOUS: Final = Caller(id="anonymous", scopes=ALL_SCOPES)
# Failures of one address that are looked into, in a minute.
FAILURES: Final = RateLimitItemPerMinute(30)


class Authenticator:
    """Finds out who calls. `verifiers` are asked in their order; the first of the kind decides."""

    def __init__(self, settings: ServerSettings, *, verifiers: tuple[Verifier, ...] = ()) -> None:
        self._settings = settings
        self._verifiers = verifiers
        self._failures = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def authenticate(self, headers: Headers, *, client: str = "") -> Caller:
        """The caller that the request's headers prove. `client` is the address it came from.

        Raises:
            UnauthenticatedError: they prove nothing; answered with `CHALLENGE`.
            OverloadedError: the same, and that address has failed too often.
            ForbiddenError: nobody needs to prove anything here, but a web page asks.
        """
        if self._settings.authentication == "none":
            self._refuse_web_pages(headers)
            return ANONYMOUS
        try:
            credential = credential_of(headers)
            for verifier in self._verifiers:
                if verifier.recognizes(credential):
                    return await verifier.verify(credential)
            raise CredentialRefusedError("it is no API key and no token of a kind that is accepted")
        except CredentialRefusedError as refused:
            raise self._failed(client, str(refused)) from None

    def close(self) -> None:
        """Write down which keys were used, and let go of the database."""
        for verifier in self._verifiers:
            verifier.close()

    def _failed(self, client: str, reason: str) -> UnauthenticatedError | OverloadedError:
        address = _network(client)
        if not self._failures.hit(FAILURES, address):
            reset, _ = self._failures.get_window_stats(FAILURES, address)
            return OverloadedError(
                "too many requests from here without a credential that is taken",
                retry_after=round(max(reset - time.time(), 1.0), 3),
            )
        log.warning("not let in from %s: %s", address or "an unknown address", reason)
        return UnauthenticatedError(
            "an API key or a token is needed, and there is none that is taken",
            hint="send `Authorization: Bearer …`",
        )

    def _refuse_web_pages(self, headers: Headers) -> None:
        """Let no page that a browser on this machine shows use what is open to this machine.

        A browser sends a form to any address without asking first, and a name of the page's own
        can lead to loopback.
        """
        host = _name(f"//{headers.get('host', '')}")
        if host is not None and host not in LOOPBACK | {self._settings.host}:
            raise ForbiddenError(
                "without authentication, requests are for this machine's own names only",
                hint="use 127.0.0.1 or localhost, or set `server.authentication: required`",
            )
        origin = headers.get("origin")
        if origin is None or origin in self._settings.cors:
            return
        if origin.partition("://")[2] != headers.get("host"):
            raise ForbiddenError(
                "pages of other origins may not call",
                hint="allow the origin in `server.cors`",
            )


def build_authenticator(settings: ServerSettings, database: sa.Engine) -> Authenticator:
    """What the settings ask for: API keys of the database, and tokens where there is a `jwt`.

    Raises:
        DatabaseUnavailableError: the database cannot be used.
    """
    if settings.authentication == "none":
        return Authenticator(settings)
    verifiers: tuple[Verifier, ...] = (KeyVerifier(KeyStore(database), settings.limits),)
    if settings.jwt is not None:
        verifiers += (JwtVerifier(settings.jwt, settings.limits),)
    return Authenticator(settings, verifiers=verifiers)


def _name(url: str) -> str | None:
    """The host's name in it, without a port; "" where it has none that can be read."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return ""


def _network(client: str) -> str:
    """Whom failures are counted for: an address, or the /64 that one subscriber of IPv6 has."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:  # a Unix socket's, or what a proxy passed on
        return ""
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
