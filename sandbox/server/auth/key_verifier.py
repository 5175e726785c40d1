"""API keys at work: all of them in memory, read anew while requests come.

A request never waits for a query of its own: what is in memory serves all requests for `_FRESH`
seconds. So a key that was made or revoked by any process is known that soon; where the database
cannot be read, nobody is let in by what it said before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from sandbox.errors import SandboxError
from sandbox.server.auth.callers import Caller
from sandbox.server.auth.credentials import CredentialRefusedError
from sandbox.server.auth.keys import PREFIX, matches, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.config.server_settings import CallerLimits
    from sandbox.server.auth.keys import ApiKey, KeyStore

log = logging.getLogger(__name__)

# For how long the keys in memory are taken for those of the database, in seconds.
_FRESH: Final = 0.5
# The same for a key that is not among them: guesses are no load on the database either.
_FRESH_ENOUGH: Final = 0.05
# When a key was used last is written this often at most, in seconds.
_NOTE_EVERY: Final = 60.0


class KeyVerifier:
    """Whose an API key is. `limits` are the most that any key gets."""

    def __init__(
        self, store: KeyStore, limits: CallerLimits, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._keys: Mapping[str, ApiKey] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        # Threads of its own: those that everybody uses may all be waiting for functions. One
        # reads, one writes, so that no request waits for a write.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keys-used")
        # When each was used since that was last written down.
        self._used: dict[str, float] = {}
        self._noted_at = clock()
        self._lock = threading.Lock()

    def recognizes(self, credential: str) -> bool:
        """Whether it begins as API keys do."""
        return credential.startswith(PREFIX)

    async def verify(self, credential: str) -> Caller:
        """The caller that the key was made for.

        Raises:
            RefusedError: there is no such key, or it was revoked or has expired.
            DatabaseUnavailableError: the keys cannot be read.
        """
        parsed = parse_key(credential)
        if parsed is None:
            raise CredentialRefusedError("it has not the form of an API key")
        key_id, secret = parsed
        key = (await self._current(_FRESH)).get(key_id)
        if key is None:  # it may have been made a moment ago
            key = (await self._current(_FRESH_ENOUGH)).get(key_id)
        if not matches(key, secret) or key is None:
            raise CredentialRefusedError(f"there is no API key {key_id} with that secret")
        now = self._clock()
        if key.expires_at is not None and now >= key.expires_at:
            raise CredentialRefusedError(f"the API key {key_id} has expired")
        self._note(key_id, now)
        return Caller(
            id=f"key:{key_id}",
            scopes=frozenset(key.scopes),
            functions=key.functions,
            limits=key.limits(self._limits),
        )

    def close(self) -> None:
        """Write down which keys were used, and end its threads."""
        self._write()
        self._reader.shutdown()
        self._writer.shutdown()

    async def _current(self, fresh: float) -> Mapping[str, ApiKey]:
        """The keys that are not revoked, by their ids, as they were at most so many seconds ago."""
        if time.monotonic() - self._read_at >= fresh:
            async with self._reading:
                # Another request may have read them meanwhile.
                asked_at = time.monotonic()
                if asked_at - self._read_at >= fresh:
                    loop = asyncio.get_running_loop()
                    self._keys = await loop.run_in_executor(self._reader, self._read)
                    self._read_at = asked_at
        return self._keys

    def _read(self) -> Mapping[str, ApiKey]:
        return {key.id: key for key in self._store.list(revoked=False)}

    def _note(self, key_id: str, now: float) -> None:
        with self._lock:
            self._used[key_id] = now
            if now - self._noted_at < _NOTE_EVERY:
                return
            self._noted_at = now
        self._writer.submit(self._write)

    def _write(self) -> None:
        with self._lock:
            used, self._used = self._used, {}
        if not used:
            return
        try:
            self._store.note_used(used)
        except SandboxError as error:  # nobody has to wait for it, or fail because of it
            log.warning("when API keys were used could not be written down: %s", error)
