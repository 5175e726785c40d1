"""Digests of files by their state, so that an unchanged file is not read again.

A file is unchanged if its inode, size and times of change are the same. The kernel's clock ticks
in milliseconds, so a file that changed just before the read could change again within the same
tick. So digests of files that changed less than `SETTLED` ago are not kept.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import os
    from pathlib import Path

# Nanoseconds. File systems that count in whole seconds, or in two, are covered.
SETTLED: Final = 3_000_000_000
# Below so many bytes, reading all files costs less than keeping their digests.
_WORTHWHILE: Final = 1024 * 1024
_FORMAT: Final = 1

_State = tuple[int, int, int, int, int]


class FileHashes:
    """The digests of one tree's files, kept in `file` from one pass to the next."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._begun = time.time_ns()
        self._size = 0
        self._known = _load(file)
        self._seen: dict[str, tuple[_State, bytes]] = {}

    def get(self, path: str, status: os.stat_result) -> bytes | None:
        """The digest of a file that has not changed since it was read; else None."""
        self._size += status.st_size
        known = self._known.get(path)
        if known is None or known[0] != _state(status):
            return None
        self._seen[path] = known
        return known[1]

    def put(self, path: str, status: os.stat_result, digest: bytes) -> None:
        """Keep the digest of a file that had the state `status` while it was open."""
        if max(status.st_mtime_ns, status.st_ctime_ns) < self._begun - SETTLED:
            self._seen[path] = _state(status), digest

    def save(self) -> None:
        """Write the digests for the next pass, if that is worth it."""
        if self._seen == self._known or self._size < _WORTHWHILE:
            return
        entries = {path: [*state, digest.hex()] for path, (state, digest) in self._seen.items()}
        temporary = self._file.with_name(f".{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):  # a full disk: the next pass reads all files again
            temporary.write_text(json.dumps([_FORMAT, entries]))
            temporary.rename(self._file)


def _state(status: os.stat_result) -> _State:
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def _load(file: Path) -> dict[str, tuple[_State, bytes]]:
    """The digests of an earlier pass; none if they cannot be read."""
    try:
        form, entries = json.loads(file.read_bytes())
        if form != _FORMAT:
            return {}
        return {
            path: ((dev, ino, size, mtime, ctime), bytes.fromhex(digest))
            for path, (dev, ino, size, mtime, ctime, digest) in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
