"""Which versions of functions cannot wait for their request, kept in the store for `sandbox show`.

A stdio script that ends, or answers, before it is asked is never booted ahead again. That is
found out by the process that tried it, and is of interest to others.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LONGEST: Final = 500


class ColdFunctions:
    """The notes of one store, by the digest of a function's source."""

    def __init__(self, store: Path) -> None:
        self._directory = store / "cold"

    def add(self, digest: str, reason: str) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        unfinished = self._directory / f".{uuid.uuid4().hex}"
        unfinished.write_text(reason[:_LONGEST])
        unfinished.rename(self._path(digest))

    def reason(self, digest: str) -> str | None:
        """Why this version is not booted ahead; None where that is not known."""
        try:
            return self._path(digest).read_text()
        except FileNotFoundError:
            return None

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no digest")
        return self._directory / digest
