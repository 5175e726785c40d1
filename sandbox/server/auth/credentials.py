"""The credential in a request's headers, and what checks one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from sandbox.server.auth.callers import Caller

# In characters. A longer credential is refused unread.
MAX_CREDENTIAL_LENGTH: Final = 8192

_BEARER: Final = re.compile(r"bearer +([!-~]+)", re.IGNORECASE | re.ASCII)


class CredentialRefusedError(Exception):
    """A credential is refused. The text says why, for the log only, and quotes none of it."""


class Verifier(Protocol):
    """Checks one kind of credential."""

    def recognizes(self, credential: str) -> bool:
        """Whether the credential is of this kind, by its form alone."""

    async def verify(self, credential: str) -> Caller:
        """The caller whose credential it is. Raises CredentialRefusedError."""

    def close(self) -> None:
        """Release threads and other resources."""


def credential_of(headers: Headers) -> str:
    """The one credential of a request: `Authorization: Bearer …`, or `X-API-Key`.

    Raises:
        CredentialRefusedError: there is none, or more than one, or it is too long.
    """
    bearers, keys = headers.getlist("authorization"), headers.getlist("x-api-key")
    if not bearers and not keys:
        raise CredentialRefusedError("no credential")
    if len(bearers) + len(keys) > 1:
        raise CredentialRefusedError("more than one credential")
    if sum(map(len, bearers + keys)) > MAX_CREDENTIAL_LENGTH + len("Bearer "):
        raise CredentialRefusedError("the credential is too long")
    if keys:
        return keys[0]
    match = _BEARER.fullmatch(bearers[0])
    if match is None:
        raise CredentialRefusedError("the header Authorization is not of the form `Bearer …`")
    return match[1]
