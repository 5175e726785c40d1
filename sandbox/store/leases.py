"""Leases: which bundles any process uses, so that no other process removes them.

Each process keeps a directory in `leases`, with an empty file for each bundle that it uses, and
holds a lock on it. The kernel drops the lock when the process ends, however it ends. A process
takes a bundle under a shared lock on the whole store, and removes one under an exclusive lock. So
no bundle disappears between finding and taking it.
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
    """The use of one bundle. `last` is when a process took it last, in seconds since 1970."""

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
        # By digest: how often this process holds it, and the releases yet to be carried out.
        self._held: dict[str, int] = {}
        self._dropped: deque[str] = deque()
        self._lock = threading.Lock()
        self._claimed = False

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """Keep every process from removing bundles, to find one and take it."""
        with locked(self._gate, shared=True):
            yield

    def take(self, digest: str) -> None:
        """Hold a bundle, within `taking`, until `release` has been called as often."""
        with self._lock:
            self._claim()
            self._let_go()
            held = self._held.get(digest, 0)
            if not held:
                (self._own / digest).touch()
            self._held[digest] = held + 1
        (self._used / digest).touch()

    def release(self, digest: str) -> None:
        """Give up one hold, later.

        The garbage collector may call this in the middle of anything, even of `take`. So this only
        notes it.
        """
        self._dropped.append(digest)

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """Keep every process from taking bundles, to remove some. Bundles in use stay in use."""
        with locked(self._gate):
            yield

    def uses(self) -> Mapping[str, Use]:
        """The use of each bundle that was ever taken, by digest. Exact only within `removing`."""
        with self._lock:
            self._let_go()
        in_use = self.in_use()
        return {
            entry.name: Use(in_use=entry.name in in_use, last=entry.stat().st_mtime)
            for entry in self._used.iterdir()
        }

    def forget(self, digest: str) -> None:
        (self._used / digest).unlink(missing_ok=True)

    def _let_go(self) -> None:
        """Carry out the releases that were noted."""
        while self._dropped:
            digest = self._dropped.popleft()
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]
                (self._own / digest).unlink(missing_ok=True)

    def _claim(self) -> None:
        """Make this process's directory, locked before it is visible."""
        if self._claimed:
            return
        self._own.mkdir(mode=0o700)
        descriptor = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        weakref.finalize(self, _give_up, self._own, descriptor)
        self._claimed = True

    def in_use(self) -> set[str]:
        """The digests that living processes hold. Clears the leases of dead ones."""
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
    """The time `seconds` ago, on the clock of `Use.last`."""
    return time.time() - seconds
