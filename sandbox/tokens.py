"""Internal tokens, by which an invocation proves its identity to the Alyx server.

A token is a JSON Web Token, signed with Ed25519. Anybody with the public key can `verify` its
function and its expiry offline. Only the process that generated a token, with `Tokens`, knows
whether the invocation still runs: there the token is valid from `generate` to `revoke`, but never
after its deadline, and never in a process that was started later.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm

from sandbox.errors import InvalidSettingsError
from sandbox.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ISSUER: Final = "alyx-sandbox"
AUDIENCE: Final = "alyx"
ALGORITHM: Final = "EdDSA"
# Characters. Every token of ours is far shorter, whatever its function's name and request id.
LONGEST: Final = 8192
# Seconds between two sweeps of tokens that expired without being revoked.
_SWEEP: Final = 60.0
# `_check_time` checks the time, by our own clock.
_OPTIONS: Final[Any] = {
    "require": ["iss", "aud", "sub", "jti", "iat", "exp"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class InvalidTokenError(Exception):
    """The token is not ours, is for another function, has expired or was revoked."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The claims of a token. Times are seconds since the epoch; `id` is its `jti`."""

    id: str
    function: str
    request_id: str
    issued_at: int
    expires_at: int


def verify(
    token: str, key: Ed25519PublicKey, *, function: str | None = None, now: float | None = None
) -> Claims:
    """The claims of `token`, if `key` signed it and it has not expired at `now`.

    For any process that holds the public key. It does not notice that a token was revoked; only
    the process that generated it does.

    Raises:
        InvalidTokenError: it was not signed by that key, has expired, or is for a function other
            than `function`.
    """
    try:
        if len(token) > LONGEST:
            raise InvalidTokenError("it is too long")
        found = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            options=_OPTIONS,
        )
        claims = Claims(
            id=found["jti"],
            function=found["sub"],
            request_id=found["request_id"],
            issued_at=int(found["iat"]),
            expires_at=int(found["exp"]),
        )
    # A token may contain any header and body; PyJWT raises other errors for some of them.
    except (jwt.PyJWTError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        raise InvalidTokenError("it is no token of ours") from None
    _check_time(claims, time.time() if now is None else now)
    if function is not None and claims.function != function:
        raise InvalidTokenError("it is for another function")
    return claims


class Tokens:
    """Generates tokens, and knows which are valid. Safe to use from many threads.

    `clock` gives seconds since the epoch. A token stays valid for `grace` seconds after its
    deadline, for clocks that differ.
    """

    def __init__(
        self,
        *,
        key: Ed25519PrivateKey,
        clock: Callable[[], float] = time.time,
        grace: float = 0.0,
    ) -> None:
        self._key = key
        self._public = key.public_key()
        self._jwk = _public_jwk(self._public)
        self._clock = clock
        self._grace = grace
        # By the whole token: the same signature in another encoding is another token.
        self._active: dict[str, Claims] = {}
        self._swept_at = clock()
        self._lock = threading.Lock()

    def generate(self, function: str, request_id: str, deadline: float) -> str:
        """A token for one invocation of `function`, which ends at `deadline` by the clock."""
        now = self._clock()
        claims = Claims(
            id=new_id(128),
            function=function,
            request_id=request_id,
            issued_at=int(now),
            expires_at=math.ceil(deadline + self._grace),
        )
        token = jwt.encode(
            {
                "iss": ISSUER,
                "aud": AUDIENCE,
                "sub": claims.function,
                "jti": claims.id,
                "request_id": claims.request_id,
                "iat": claims.issued_at,
                "exp": claims.expires_at,
            },
            self._key,
            algorithm=ALGORITHM,
            headers={"kid": self._jwk["kid"]},
        )
        with self._lock:
            if now - self._swept_at >= _SWEEP:
                self._sweep(now)
            self._active[token] = claims
        return token

    def validate(self, token: str, *, function: str | None = None) -> Claims:
        """The claims of `token`, while its invocation runs.

        Raises:
            InvalidTokenError: it is not ours, is for a function other than `function`, has
                expired or was revoked.
        """
        claims = verify(token, self._public, function=function, now=self._clock())
        if token not in self._active:
            raise InvalidTokenError("its invocation has ended")
        return claims

    def revoke(self, token: str) -> None:
        """Make `token` invalid for good. Revoking it again changes nothing."""
        with self._lock:
            self._active.pop(token, None)

    @property
    def count(self) -> int:
        self.sweep()
        return len(self._active)

    def sweep(self) -> int:
        """Forget expired tokens and return their number; `generate` does it now and then."""
        with self._lock:
            return self._sweep(self._clock())

    def public_jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [dict(self._jwk)]}

    def _sweep(self, now: float) -> int:
        self._swept_at = now
        expired = [token for token, claims in self._active.items() if now >= claims.expires_at]
        for token in expired:
            del self._active[token]
        return len(expired)


def load_key(path: Path | None) -> Ed25519PrivateKey:
    """The private key in the PEM file at `path`; without a path, a new key that is not stored.

    Raises:
        InvalidSettingsError: the file cannot be read, or holds no such key.
    """
    if path is None:
        return Ed25519PrivateKey.generate()
    hint = f"make one by `openssl genpkey -algorithm ed25519 -out {path}`"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise InvalidSettingsError(
            f"server.tokens.key_file: {path}: {error.strerror}", hint=hint
        ) from None
    except (ValueError, TypeError):  # what it says may show a part of the file
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidSettingsError(
            f"server.tokens.key_file: {path} is no Ed25519 private key in PEM, without a password",
            hint=hint,
        )
    return key


def _check_time(claims: Claims, now: float) -> None:
    if now >= claims.expires_at:
        raise InvalidTokenError("it has expired")


def _public_jwk(key: Ed25519PublicKey) -> dict[str, Any]:
    """The key as a JWK. Its `kid` is its thumbprint (RFC 7638), the same in every process."""
    jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    public = {name: jwk[name] for name in ("crv", "kty", "x")}
    digest = hashlib.sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode())
    kid = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return {**public, "kid": kid, "use": "sig", "alg": ALGORITHM}
