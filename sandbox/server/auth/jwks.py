"""The issuer's keys, which sign callers' tokens: a JSON Web Key Set from a file or an https URL.

PyJWT reads each key. Its `PyJWKSet` and `PyJWKClient` are not used: one odd entry makes a set
fail, sets keep private and symmetric keys, and a set without keys is an error, so that keys which
the issuer withdrew would go on serving. The client blocks, and reads an answer of any size for
any time.
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

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

from sandbox.server.auth.credentials import CredentialRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger(__name__)

MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
# Seconds for one fetch as a whole.
FETCH_TIMEOUT: Final = 5.0
# Shorter RSA keys can be broken.
MIN_RSA_BITS: Final = 2048

# By key type and curve: the algorithms, and the fields of the public key. Only these fields are
# read, so the private part of a key never gets into memory as a key.
_KEY_TYPES: Final[Mapping[tuple[str, str | None], tuple[frozenset[str], tuple[str, ...]]]] = {
    ("RSA", None): (frozenset({"RS256", "RS384", "RS512", "PS256"}), ("kty", "n", "e")),
    ("EC", "P-256"): (frozenset({"ES256"}), ("kty", "crv", "x", "y")),
    ("EC", "P-384"): (frozenset({"ES384"}), ("kty", "crv", "x", "y")),
    ("OKP", "Ed25519"): (frozenset({"EdDSA"}), ("kty", "crv", "x")),
}


@dataclass(frozen=True, kw_only=True)
class RefreshPolicy:
    """When keys are read again. All times are in seconds.

    Keys older than `max_age` are read again, which with `in_background` no request waits for. If
    that fails, they serve until they are older than `max_stale`. Two reads are at least
    `min_interval` apart.
    """

    max_age: float
    min_interval: float
    max_stale: float = 3600.0
    in_background: bool = False


FILE_POLICY: Final = RefreshPolicy(max_age=2.0, min_interval=2.0)
URL_POLICY: Final = RefreshPolicy(max_age=600.0, min_interval=10.0, in_background=True)


class JwkSetError(Exception):
    """The keys cannot be read; the text says why."""


class JwkSet:
    """The keys at `location`, a file or an `https` URL. For one event loop.

    They are read when the first token comes, again when they are old, and again, within the
    policy, when a token names a key that is not among them. `clock` is like `time.monotonic`;
    `read` returns the document.
    """

    def __init__(
        self,
        location: str,
        *,
        policy: RefreshPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        self._location = location
        is_url = location.startswith("https://")
        self._policy = policy or (URL_POLICY if is_url else FILE_POLICY)
        self._clock = clock
        self._read = read or (self._fetch if is_url else self._read_file)
        self._keys: tuple[PyJWK, ...] | None = None
        self._read_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        # Kept here because the loop itself holds tasks only weakly.
        self._refreshing: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None

    async def find(self, key_id: str | None, algorithm: str) -> tuple[PyJWK, ...]:
        """The keys with that id for that algorithm; without an id, all keys for the algorithm.

        Raises:
            CredentialRefusedError: the keys cannot be read.
        """
        age = self._clock() - self._read_at
        if age >= self._policy.max_age:
            if not self._policy.in_background or age >= self._policy.max_stale:
                await self._refresh()
            elif self._refreshing is None or self._refreshing.done():
                self._refreshing = asyncio.create_task(self._refresh())
        found = self._matching(key_id, algorithm)
        if not found:
            await self._refresh()
            found = self._matching(key_id, algorithm)
        if self._keys is None:
            raise CredentialRefusedError("the keys of tokens cannot be read")
        return found

    def _matching(self, key_id: str | None, algorithm: str) -> tuple[PyJWK, ...]:
        return tuple(
            key
            for key in self._keys or ()
            if key.algorithm_name == algorithm and key_id in (None, key.key_id)
        )

    async def _refresh(self) -> None:
        """Read the keys, unless the last attempt was less than `min_interval` ago."""
        async with self._lock:
            now = self._clock()
            if now - self._tried_at < self._policy.min_interval:
                return
            self._tried_at = now
            try:
                self._keys = parse_keys(await self._read())
                self._read_at = now
            except JwkSetError as error:
                log.error("the keys at %s cannot be read: %s", self._location, error)
                if now - self._read_at >= self._policy.max_stale:
                    self._keys = None

    async def _read_file(self) -> bytes:
        try:
            with Path(self._location).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise JwkSetError(error.strerror or "the file cannot be opened") from None

    async def _fetch(self) -> bytes:
        """The document at the URL. Redirects are not followed: they could lead anywhere."""
        import httpx  # noqa: PLC0415 - takes a tenth of the server's start, and few need it

        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                if self._tls is None:  # reads the CA certificates, which takes a while
                    self._tls = await asyncio.to_thread(ssl.create_default_context)
                headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
                async with (
                    httpx.AsyncClient(verify=self._tls, timeout=FETCH_TIMEOUT) as client,
                    client.stream("GET", self._location, headers=headers) as response,
                ):
                    if response.status_code != httpx.codes.OK:
                        raise JwkSetError(f"the server answered {response.status_code}")
                    document = b""
                    async for chunk in response.aiter_raw():
                        document += chunk
                        if len(document) > MAX_BYTES:
                            break
                    return document
        except TimeoutError:
            raise JwkSetError(f"the fetch took longer than {FETCH_TIMEOUT:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise JwkSetError(str(error) or type(error).__name__) from None


def parse_keys(document: bytes) -> tuple[PyJWK, ...]:
    """The public keys in a JWKS document, once for each algorithm that fits their type.

    Keys that cannot check signatures are skipped. PyJWT checks a signature with the algorithm of
    the key, so a token cannot make a public key the secret of an HMAC.

    Raises:
        JwkSetError: the document is no JSON Web Key Set, or too large.
    """
    if len(document) > MAX_BYTES:
        raise JwkSetError(f"the document is larger than {MAX_BYTES} bytes")
    try:
        entries = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise JwkSetError("the document is no JSON Web Key Set") from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise JwkSetError(f"the document has no list of at most {MAX_KEYS} keys")
    return tuple(key for entry in entries if isinstance(entry, dict) for key in _keys(entry))


def _keys(entry: Mapping[str, Any]) -> list[PyJWK]:
    """The key of one entry, for each of its algorithms; none if the key cannot be used."""
    kty, curve, key_id = entry.get("kty"), entry.get("crv"), entry.get("kid")
    if not isinstance(kty, str) or not isinstance(curve, str | None):
        return []
    if (kty, curve) not in _KEY_TYPES or not isinstance(key_id, str | None):
        return []
    if not _checks_signatures(entry):
        return []
    algorithms, fields = _KEY_TYPES[kty, curve]
    if "alg" in entry:
        algorithms &= {str(entry["alg"])}
    try:
        public = {name: entry[name] for name in fields} | {"kid": key_id}
        keys = [PyJWK(public, algorithm) for algorithm in algorithms]
    except (PyJWTError, ValueError, KeyError, TypeError):
        return []
    return [key for key in keys if not _is_short(key)]


def _is_short(key: PyJWK) -> bool:
    return isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS


def _checks_signatures(entry: Mapping[str, Any]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    )
