"""Which bundles are in use, by any process; and removal of those that nobody has used for long.

Each process keeps a directory in `leases`, locked for as long as it lives, with an empty file for
each bundle that it uses. The kernel drops the lock when the process ends, however it ends.
A bundle is taken under a shared lock on the whole store, and removed under an exclusive one, so
that none goes between being found and being taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
import uuid
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.store.locks import claimed, locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Use:
    """How one bundle is used. `last` is when somebody took it last, in seconds since 1970."""

    in_use: bool
    last: float


class Leases:
    """This process's leases on the bundles of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self._claims = root / "leases"
        self._used = root / "used"
        self._gate = root / "locks" / "garbage"
        for directory in (self._claims, self._used, self._gate.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._own = self._claims / uuid.uuid4().hex
        # By digest, how often it is held in this process, and what is to be held once less.
        self._held: dict[str, int] = {}
        self._dropped: deque[str] = deque()
        self._lock = threading.Lock()
        self._claimed = False

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """While this lasts, nothing is removed: look for a bundle, and take it, within."""
        with locked(self._gate, shared=True):
            yield

    def take(self, digest: str) -> None:
        """Hold a bundle until `release` has been called as often; within `taking`."""
        with self._lock:
            self._claim()
            self._let_go()
            held = self._held.get(digest, 0)
            if not held:
                (self._own / digest).touch()
            self._held[digest] = held + 1
        (self._used / digest).touch()

    def release(self, digest: str) -> None:
        """Hold it once less, soon.

        The garbage collector may call this in the middle of anything, `take` included, so nothing
        is done here but to note it.
        """
        self._dropped.append(digest)

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """While this lasts, no process can take a bundle; what is in use stays so."""
        with locked(self._gate):
            yield

    def uses(self) -> Mapping[str, Use]:
        """How each bundle that was ever taken is used, by digest. For certain within `removing`."""
        with self._lock:
            self._let_go()
        in_use = self.in_use()
        return {
            entry.name: Use(in_use=entry.name in in_use, last=entry.stat().st_mtime)
            for entry in self._used.iterdir()
        }

    def forget(self, digest: str) -> None:
        """The bundle is gone; within `removing`."""
        (self._used / digest).unlink(missing_ok=True)

    def _let_go(self) -> None:
        """Do what `release` has noted."""
        while self._dropped:
            digest = self._dropped.popleft()
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]
                (self._own / digest).unlink(missing_ok=True)

    def _claim(self) -> None:
        """Make this process's directory, locked before anybody can take it for a dead one's."""
        if self._claimed:
            return
        self._own.mkdir(mode=0o700)
        descriptor = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        weakref.finalize(self, _give_up, self._own, descriptor)
        self._claimed = True

    def in_use(self) -> set[str]:
        """What living processes hold; what dead ones held is cleared."""
        held: set[str] = set()
        for claim in self._claims.iterdir():
            with contextlib.suppress(FileNotFoundError), claimed(claim) as dead:
                if dead:
                    shutil.rmtree(claim, ignore_errors=True)
                else:
                    held |= {entry.name for entry in claim.iterdir()}
        return held


def _give_up(claim: Path, descriptor: int) -> None:
    shutil.rmtree(claim, ignore_errors=True)
    os.close(descriptor)


def long_ago(seconds: float) -> float:
    """The time that is `seconds` back, as `Use.last` counts it."""
    return time.time() - seconds
