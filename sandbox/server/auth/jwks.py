"""The keys that sign callers' tokens: a JSON Web Key Set from a file or an https URL.

Only public keys are kept, each with the algorithms that fit its type: a token cannot choose
another, so a public key never serves as the secret of an HMAC. Keys are read when they are first
needed, anew when they are old, and, at most every so often, when a token names one that is not
known. While they cannot be read, the old ones serve for a time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sandbox.server.auth.credentials import CredentialRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

log = logging.getLogger(__name__)

# Bytes and keys of a set; seconds to fetch it.
MOST_BYTES: Final = 256 * 1024
MOST_KEYS: Final = 100
FETCH_SECONDS: Final = 5.0
# Bits. Below it, RSA is within reach.
SMALLEST_RSA: Final = 2048

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256"})
# By type and curve: the algorithms, and the fields of the public key. All others are the private
# key's, which has no business here.
_KINDS: Final[Mapping[tuple[str, str | None], tuple[frozenset[str], tuple[str, ...]]]] = {
    ("RSA", None): (_RSA, ("kty", "n", "e")),
    ("EC", "P-256"): (frozenset({"ES256"}), ("kty", "crv", "x", "y")),
    ("EC", "P-384"): (frozenset({"ES384"}), ("kty", "crv", "x", "y")),
    ("OKP", "Ed25519"): (frozenset({"EdDSA"}), ("kty", "crv", "x")),
}
_READERS: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A public key, and the algorithms that it may be used with."""

    id: str | None
    algorithms: frozenset[str]
    key: Any


@dataclass(frozen=True, kw_only=True)
class Ages:
    """How long keys are good for, in seconds.

    After `fresh` they are read anew, which with `behind` no request waits for; until `stale` they
    serve if that fails; and they are never read more often than every `pause`.
    """

    fresh: float
    pause: float
    stale: float = 3600.0
    behind: bool = False


OF_FILES: Final = Ages(fresh=2.0, pause=2.0)
OF_URLS: Final = Ages(fresh=600.0, pause=10.0, behind=True)


class KeySetError(Exception):
    """The keys cannot be read; the text says why."""


class KeySet:
    """The keys at `place`, a file or an `https` URL. For one event loop.

    `clock` is like `time.monotonic`; `read` gives the document, and can be handed in.
    """

    def __init__(
        self,
        place: str,
        *,
        ages: Ages | None = None,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        self._place = place
        is_url = place.startswith("https://")
        self._ages = ages or (OF_URLS if is_url else OF_FILES)
        self._clock = clock
        self._read = read or (self._fetch if is_url else self._read_file)
        self._keys: tuple[SigningKey, ...] | None = None
        self._read_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        # Kept, since the loop itself holds tasks only weakly.
        self._refreshing: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None

    async def find(self, key_id: str | None, algorithm: str) -> tuple[SigningKey, ...]:
        """The keys of that id which fit the algorithm; without an id, all that fit.

        Raises:
            RefusedError: the keys cannot be read.
        """
        age = self._clock() - self._read_at
        if age >= self._ages.fresh:
            if not self._ages.behind or age >= self._ages.stale:
                await self._refresh()
            elif self._refreshing is None or self._refreshing.done():
                self._refreshing = asyncio.create_task(self._refresh())
        found = _fitting(self._keys or (), key_id, algorithm)
        if not found:
            await self._refresh()
            found = _fitting(self._keys or (), key_id, algorithm)
        if self._keys is None:
            raise CredentialRefusedError("the keys of tokens cannot be read")
        return found

    async def _refresh(self) -> None:
        """Read the keys, unless that was tried a moment ago."""
        async with self._lock:
            now = self._clock()
            if now - self._tried_at < self._ages.pause:
                return
            self._tried_at = now
            try:
                self._keys = parse_keys(await self._read())
                self._read_at = now
            except KeySetError as error:
                log.error("the keys at %s cannot be read: %s", self._place, error)
                if now - self._read_at >= self._ages.stale:
                    self._keys = None

    async def _read_file(self) -> bytes:
        try:
            with Path(self._place).open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except OSError as error:
            raise KeySetError(error.strerror or "it cannot be opened") from None

    async def _fetch(self) -> bytes:
        """The document at the URL. Redirects are not followed: they could lead anywhere."""
        import httpx  # noqa: PLC0415 - takes a tenth of the server's start, and few need it

        try:
            async with asyncio.timeout(FETCH_SECONDS):
                if self._tls is None:  # reads the CA certificates, which takes a while
                    self._tls = await asyncio.to_thread(ssl.create_default_context)
                headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
                async with (
                    httpx.AsyncClient(verify=self._tls, timeout=FETCH_SECONDS) as client,
                    client.stream("GET", self._place, headers=headers) as response,
                ):
                    if response.status_code != httpx.codes.OK:
                        raise KeySetError(f"the server answered {response.status_code}")
                    document = b""
                    async for chunk in response.aiter_raw():
                        document += chunk
                        if len(document) > MOST_BYTES:
                            break
                    return document
        except TimeoutError:
            raise KeySetError(f"it took longer than {FETCH_SECONDS:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise KeySetError(str(error) or type(error).__name__) from None


def parse_keys(document: bytes) -> tuple[SigningKey, ...]:
    """The keys of a JWKS document that can check signatures; others are passed over.

    Raises:
        KeySetError: it is no such document, or too large.
    """
    if len(document) > MOST_BYTES:
        raise KeySetError(f"it is larger than {MOST_BYTES} bytes")
    try:
        entries = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KeySetError("it is no JSON Web Key Set") from None
    if not isinstance(entries, list) or len(entries) > MOST_KEYS:
        raise KeySetError(f"it has no list of at most {MOST_KEYS} keys")
    keys = (_signing_key(entry) for entry in entries if isinstance(entry, dict))
    return tuple(key for key in keys if key is not None)


def _signing_key(entry: Mapping[str, Any]) -> SigningKey | None:
    kty, curve, key_id = entry.get("kty"), entry.get("crv"), entry.get("kid")
    if not isinstance(kty, str) or not isinstance(curve, str | None):
        return None
    if (kty, curve) not in _KINDS or not isinstance(key_id, str | None):
        return None
    if not _checks_signatures(entry):
        return None
    algorithms, fields = _KINDS[kty, curve]
    if "alg" in entry:
        algorithms &= {str(entry["alg"])}
    try:
        key = _READERS[kty]({name: entry[name] for name in fields})
    except (jwt.PyJWTError, ValueError, KeyError, TypeError):
        return None
    if not algorithms or (isinstance(key, RSAPublicKey) and key.key_size < SMALLEST_RSA):
        return None
    return SigningKey(id=key_id, algorithms=algorithms, key=key)


def _checks_signatures(entry: Mapping[str, Any]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    )


def _fitting(
    keys: Collection[SigningKey], key_id: str | None, algorithm: str
) -> tuple[SigningKey, ...]:
    return tuple(
        key for key in keys if algorithm in key.algorithms and (key_id is None or key.id == key_id)
    )
