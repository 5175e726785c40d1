"""What callers show to prove who they are, as it stands in a request's headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from sandbox.server.auth.callers import Caller

# A credential longer than this is not looked at, in characters.
LONGEST: Final = 8192

_BEARER: Final = re.compile(r"bearer +([!-~]+)", re.IGNORECASE | re.ASCII)


class CredentialRefusedError(Exception):
    """A credential that is not taken. The text says why, without any of it: for the log only."""


class Verifier(Protocol):
    """One way to prove who one is."""

    def claims(self, credential: str) -> bool:
        """Whether the credential is of this kind, by its form alone."""

    async def verify(self, credential: str) -> Caller:
        """Whose it is. Raises RefusedError."""

    def close(self) -> None:
        """Let go of what it holds."""


def credential_of(headers: Headers) -> str:
    """The one credential of a request: `Authorization: Bearer …`, or `X-API-Key`.

    Raises:
        RefusedError: there is none, or more than one, or it is too long.
    """
    bearers, keys = headers.getlist("authorization"), headers.getlist("x-api-key")
    if not bearers and not keys:
        raise CredentialRefusedError("no credential")
    if len(bearers) + len(keys) > 1:
        raise CredentialRefusedError("more than one credential")
    if sum(map(len, bearers + keys)) > LONGEST + len("Bearer "):
        raise CredentialRefusedError("the credential is too long")
    if keys:
        return keys[0]
    match = _BEARER.fullmatch(bearers[0])
    if match is None:
        raise CredentialRefusedError("the header Authorization has another form than `Bearer …`")
    return match[1]
