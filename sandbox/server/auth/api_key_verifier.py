"""Checks callers' API keys against a copy of the table in memory.

All requests share the copy, and one query renews it when it is older than `_MAX_AGE`. So the
server notices that soon when any process creates or revokes a key. While the database cannot be
read, the server lets no key in, whatever the old copy says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from sandbox.errors import SandboxError
from sandbox.server.auth.api_keys import PREFIX, matches, parse_key
from sandbox.server.auth.callers import Caller
from sandbox.server.auth.credentials import CredentialRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.config.server_settings import CallerLimits
    from sandbox.server.auth.api_keys import ApiKey, KeyStore

log = logging.getLogger(__name__)

# Seconds for which the copy serves without a look at the database.
_MAX_AGE: Final = 0.5
# The same for a key that the copy lacks. It is not zero, so guessed keys cannot flood the database.
_MAX_AGE_UNKNOWN: Final = 0.05
# Seconds between two writes of when keys were used last.
_RECORD_EVERY: Final = 60.0


class ApiKeyVerifier:
    """Finds the caller of an API key. No key gets more than `limits`."""

    def __init__(
        self, store: KeyStore, limits: CallerLimits, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._keys: Mapping[str, ApiKey] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        # The verifier has its own threads: shared ones may all be waiting for functions. One reads
        # and one writes, so that no request waits for a write.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keys-used")
        # When each key was used last, since the last write.
        self._used: dict[str, float] = {}
        self._recorded_at = clock()
        self._lock = threading.Lock()

    def recognizes(self, credential: str) -> bool:
        """Whether it begins as API keys do."""
        return credential.startswith(PREFIX)

    async def verify(self, credential: str) -> Caller:
        """The caller that the key was created for.

        Raises:
            CredentialRefusedError: there is no such key, or it was revoked or has expired.
            DatabaseUnavailableError: the keys cannot be read.
        """
        parsed = parse_key(credential)
        if parsed is None:
            raise CredentialRefusedError("it does not have the form of an API key")
        key_id, secret = parsed
        key = (await self._current(_MAX_AGE)).get(key_id)
        if key is None:  # it may be new
            key = (await self._current(_MAX_AGE_UNKNOWN)).get(key_id)
        if not matches(key, secret) or key is None:
            raise CredentialRefusedError(f"there is no API key {key_id} with that secret")
        now = self._clock()
        if key.expires_at is not None and now >= key.expires_at:
            raise CredentialRefusedError(f"the API key {key_id} has expired")
        self._record_use(key_id, now)
        return Caller(
            id=f"key:{key_id}",
            scopes=frozenset(key.scopes),
            functions=key.functions,
            limits=key.limits(self._limits),
        )

    def close(self) -> None:
        """Store when keys were used, and end the threads."""
        self._write_used()
        self._reader.shutdown()
        self._writer.shutdown()

    async def _current(self, max_age: float) -> Mapping[str, ApiKey]:
        """The keys that are not revoked, by id, at most `max_age` seconds old."""
        if time.monotonic() - self._read_at >= max_age:
            async with self._reading:
                # Another request may have read them meanwhile.
                asked_at = time.monotonic()
                if asked_at - self._read_at >= max_age:
                    loop = asyncio.get_running_loop()
                    self._keys = await loop.run_in_executor(self._reader, self._read)
                    self._read_at = asked_at
        return self._keys

    def _read(self) -> Mapping[str, ApiKey]:
        return {key.id: key for key in self._store.list(revoked=False)}

    def _record_use(self, key_id: str, now: float) -> None:
        with self._lock:
            self._used[key_id] = now
            if now - self._recorded_at < _RECORD_EVERY:
                return
            self._recorded_at = now
        self._writer.submit(self._write_used)

    def _write_used(self) -> None:
        with self._lock:
            used, self._used = self._used, {}
        if not used:
            return
        try:
            self._store.record_used(used)
        except SandboxError as error:  # no request needs this, so none fails
            log.warning("could not store when API keys were used: %s", error)
