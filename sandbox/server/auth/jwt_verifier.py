"""Checks callers' JSON Web Tokens with the issuer's keys; claims become `context.auth`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jwt

from sandbox.server.auth.callers import Caller
from sandbox.server.auth.credentials import MAX_CREDENTIAL_LENGTH, CredentialRefusedError
from sandbox.server.auth.jwks import JwkSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.config.server_settings import CallerLimits, JwtSettings

# A subject is recorded with each execution, and people read it.
MAX_SUBJECT_LENGTH: Final = 255

_REQUIRED: Final = ["exp", "iss", "aud", "sub"]
# Claims about the token itself, not about its caller.
_TOKEN_CLAIMS: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})
# Claims with a field of their own in `context.auth`.
_AUTH_CLAIMS: Final = frozenset({"sub", "email", "role", "email_verified"})


class JwtVerifier:
    """Finds the caller of a JSON Web Token. `limits` hold for each subject."""

    def __init__(
        self, settings: JwtSettings, limits: CallerLimits, *, keys: JwkSet | None = None
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._keys = keys or JwkSet(settings.jwks)

    def recognizes(self, credential: str) -> bool:
        """Whether it has the form of a signed token: three parts."""
        return credential.count(".") == 2

    async def verify(self, credential: str) -> Caller:
        """The caller that the token was issued for.

        Raises:
            CredentialRefusedError: no key of the issuer signed it with an accepted algorithm, it
                is for another audience, it has expired, or a claim is missing.
        """
        key_id, algorithm = self._header(credential)
        keys = await self._keys.find(key_id, algorithm)
        if not keys:
            raise CredentialRefusedError(
                f"the issuer has no key for {algorithm} with the id that the token names"
            )
        if key_id is None and len(keys) > 1:
            raise CredentialRefusedError("the token does not say which of several keys signed it")
        claims = self._claims(credential, keys[0], algorithm)
        subject = claims["sub"]
        if not (0 < len(subject) <= MAX_SUBJECT_LENGTH and subject.isprintable()):
            raise CredentialRefusedError("the subject is empty, too long, or not printable")
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
        """The key's id and the algorithm that the token names; nothing proves them yet."""
        if len(token) > MAX_CREDENTIAL_LENGTH:
            raise CredentialRefusedError("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
        # A header can contain anything, and PyJWT does not expect all of it.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
            raise CredentialRefusedError("the token's header cannot be read") from None
        if "crit" in header or "b64" in header:
            raise CredentialRefusedError("the token asks for extensions, and none is supported")
        key_id, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(key_id, str | None) or not isinstance(algorithm, str):
            raise CredentialRefusedError("the token's header has a `kid` or `alg` that is no text")
        if algorithm not in self._settings.algorithms:
            raise CredentialRefusedError("the token's algorithm is not accepted")
        return key_id, algorithm

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
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
    """`context.auth` from a token's claims: the known ones, and all others as `metadata`."""
    named = {name: claims.get(name) for name in ("email", "role")}
    return {
        "id": claims["sub"],
        **{name: value if isinstance(value, str) else None for name, value in named.items()},
        "verified": claims.get("email_verified") is True,
        "metadata": {
            name: value
            for name, value in claims.items()
            if name not in _TOKEN_CLAIMS and name not in _AUTH_CLAIMS
        },
    }
