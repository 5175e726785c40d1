"""`BundleSource`: the files of a bundle, for `sandbox.functions.dependencies`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

# More than the size of any lock file.
_LARGEST: Final = 32 * MIB
# The size of a function's code that is searched.
_MOST_CODE: Final = 16 * MIB
_SUFFIXES: Final = (".ts", ".mts", ".tsx", ".js", ".mjs", ".jsx")


class BundleSource:
    """The files of one bundle. It has no special files, and no links that leave it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is no such file, or it is too large."""
        path = self._path / name
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        return path.read_bytes()

    def has_directory(self, name: str) -> bool:
        return (self._path / name).is_dir()

    def scripts(self) -> Iterator[bytes]:
        """The contents of the function's own JavaScript and TypeScript files."""
        left = _MOST_CODE
        for above, directories, files in os.walk(self._path):
            directories[:] = sorted(set(directories) - {"node_modules"})
            for name in sorted(files):
                path = Path(above, name)
                if not name.endswith(_SUFFIXES) or path.is_symlink():
                    continue
                left -= path.stat().st_size
                if left < 0:
                    return
                yield path.read_bytes()
