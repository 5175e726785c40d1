"""JSON Web Tokens of callers: checked against the issuer's keys, their claims to `context.auth`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jwt

from sandbox.server.auth.callers import Caller
from sandbox.server.auth.credentials import LONGEST, CredentialRefusedError
from sandbox.server.auth.jwks import KeySet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.config.server_settings import CallerLimits, JwtSettings

# Recorded with each execution, and read by people.
LONGEST_SUBJECT: Final = 255

_REQUIRED: Final = ["exp", "iss", "aud", "sub"]
# What a token says of itself, and not of its caller.
_OF_THE_TOKEN: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})
_NAMED: Final = frozenset({"sub", "email", "role", "email_verified"})


class JwtVerifier:
    """Whose a JSON Web Token is. `limits` are those of each subject."""

    def __init__(
        self, settings: JwtSettings, limits: CallerLimits, *, keys: KeySet | None = None
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._keys = keys or KeySet(settings.jwks)

    def claims(self, credential: str) -> bool:
        """Whether it has the form of a signed token: three parts."""
        return credential.count(".") == 2

    async def verify(self, credential: str) -> Caller:
        """The caller that the token was issued for.

        Raises:
            RefusedError: it is not signed by a key of the issuer's with an algorithm that is
                accepted, is for another audience, has expired, or lacks a claim.
        """
        key_id, algorithm = self._header(credential)
        keys = await self._keys.find(key_id, algorithm)
        if not keys:
            raise CredentialRefusedError(
                f"no key of the issuer's has the token's id and fits {algorithm}"
            )
        if key_id is None and len(keys) > 1:
            raise CredentialRefusedError("the token does not say which of several keys signed it")
        claims = self._claims(credential, keys[0].key, algorithm)
        subject = claims["sub"]
        if not (0 < len(subject) <= LONGEST_SUBJECT and subject.isprintable()):
            raise CredentialRefusedError("the subject is empty, too long, or not to be printed")
        return Caller(
            id=f"jwt:{subject}",
            scopes=frozenset(self._settings.scopes),
            functions=self._settings.functions,
            auth=auth_from(claims),
            limits=self._limits,
        )

    def close(self) -> None:
        """Nothing is held."""

    def _header(self, token: str) -> tuple[str | None, str]:
        """The key's id and the algorithm that the token names, which nobody has signed yet."""
        if len(token) > LONGEST:
            raise CredentialRefusedError("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
        # What is in it can be of any form, and PyJWT does not expect them all.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
            raise CredentialRefusedError("the token's header cannot be read") from None
        if "crit" in header or "b64" in header:
            raise CredentialRefusedError("the token asks for extensions that nobody here knows")
        key_id, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(key_id, str | None) or not isinstance(algorithm, str):
            raise CredentialRefusedError("the token's header is none")
        if algorithm not in self._settings.algorithms:
            raise CredentialRefusedError("the token's algorithm is not accepted")
        return key_id, algorithm

    def _claims(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway,
                options={"require": _REQUIRED},
            )
        except jwt.PyJWTError as error:
            raise CredentialRefusedError(
                f"the token is not valid: {type(error).__name__}"
            ) from None
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise CredentialRefusedError("the token's claims cannot be read") from None


def auth_from(claims: Mapping[str, Any]) -> dict[str, Any]:
    """`context.auth` from a token's claims: the named ones, and the rest as `metadata`."""
    named = {name: claims.get(name) for name in ("email", "role")}
    return {
        "id": claims["sub"],
        **{name: value if isinstance(value, str) else None for name, value in named.items()},
        "verified": claims.get("email_verified") is True,
        "metadata": {
            name: value
            for name, value in claims.items()
            if name not in _OF_THE_TOKEN and name not in _NAMED
        },
    }
