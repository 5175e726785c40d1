"""Hashes and copies a directory for a bundle, without ever leaving the directory.

Rules:
- Every file and directory is opened relative to the open directory above it, and links are
  refused. So a swap during a copy leads nowhere else.
- A link that stays inside is copied as a link: it begins with at most as many `../` as it is deep,
  and names follow. The links on its way are of the same kind.
- Devices, FIFOs, sockets and hard links to other users' files are refused; modes become 644 or
  755 (setuid goes), times become one fixed time.
- Names are bytes, because a file can have any name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandbox.documents.problems import MOST_PROBLEMS, printable
from sandbox.documents.untrusted_files import (
    OPEN_FLAGS,
    FileRefusedError,
    check_hard_link,
    check_regular,
    refusal,
)
from sandbox.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.store.file_hashes import FileHashes

# Files of an author's tools and machine, never of a function.
LEFT_OUT: Final = frozenset(
    {
        ".DS_Store", ".git", ".hg", ".hypothesis", ".idea", ".mypy_cache", ".pytest_cache",
        ".ruff_cache", ".svn", ".tox", ".venv", ".vscode", "Thumbs.db", "__pycache__",
    }
)  # fmt: skip
# Files that editors keep beside an open file: swap files, backups, locks.
_EDITORS_OWN: Final = re.compile(r"\..+\.sw[a-p]|.+~|\.#.+|#.+#", re.DOTALL)
MAX_DEPTH: Final = 100
# 1980-01-01, the earliest time that a zip archive can hold.
FIXED_TIME: Final = 315_532_800
_BLOCK: Final = 1024 * 1024
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# To pass through a directory, one need not be allowed to read it.
_PASS_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Failures of the store's file system, not of the function's files.
NOT_THEIRS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclass(frozen=True)
class Caps:
    """How much a tree may hold; `entries` counts files, links and directories."""

    size: int
    entries: int


class ChangedError(Exception):
    """A file changed while it was read."""


class Refused(Exception):  # noqa: N818 - it holds problems, each with its own words
    """Files in the tree can't be in a bundle. `problems` are texts that begin with a path."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems[0])
        self.problems = problems


class Tree:
    """A directory, or one file of it, to hash and to copy. `path` has no links on its way.

    `hard_links` accepts hard links to files of other users: links that a container made can't lead
    out of the directory. With `everything`, nothing is left out.
    """

    def __init__(
        self,
        path: Path,
        *,
        caps: Caps,
        single_file: bool = False,
        hard_links: bool = False,
        everything: bool = False,
    ) -> None:
        self._directory = path.parent if single_file else path
        self._only = path.name if single_file else None
        self._caps = caps
        self._hard_links = hard_links
        self._everything = everything

    def digest(self, *, into: Path | None = None, hashes: FileHashes | None = None) -> str:
        """SHA-256, in hex, of all names, contents and kinds. With `into`, also copies them there.

        Without `into`, files that `hashes` knows are not read.

        Raises:
            Refused: a file can't be in a bundle.
            ChangedError: a file disappeared while it was read.
        """
        walk = _Walk(
            self._caps,
            only=self._only,
            hard_links=self._hard_links,
            everything=self._everything,
            hashes=hashes,
        )
        try:
            descriptor = _open_directory(self._directory)
        except OSError as error:
            reason = refusal(error)
            raise Refused((f"the directory: {reason.message} ({reason.hint})",)) from None
        try:
            walk.directory(descriptor, (), into)
        finally:
            os.close(descriptor)
        if walk.problems:
            raise Refused(tuple(walk.problems))
        return walk.hash.hexdigest()


class _Walk:
    """One pass over a tree, in the order of names: equal trees give equal digests."""

    def __init__(
        self,
        caps: Caps,
        *,
        only: str | None,
        hard_links: bool,
        everything: bool,
        hashes: FileHashes | None,
    ) -> None:
        self.hash = hashlib.sha256(b"alyx bundle 1\n")
        self.problems: list[str] = []
        self._caps = caps
        self._only = only
        self._hard_links = hard_links
        self._everything = everything
        self._hashes = hashes
        self._size = 0
        self._entries = 0
        self._owner = -1

    def directory(self, descriptor: int, parts: tuple[str, ...], into: Path | None) -> None:
        """Add everything in an open directory at `parts`; copy it to `into`, if given."""
        if not parts:
            self._owner = os.fstat(descriptor).st_uid
        if into is not None:
            into.mkdir(mode=0o755)
            into.chmod(0o755)  # whatever the umask says
        for name in self._names(descriptor, parts):
            path = (*parts, name)
            self._count(path)
            try:
                self._entry(descriptor, path, None if into is None else into / name)
            except FileNotFoundError:
                raise ChangedError from None
            except OSError as error:
                if error.errno in NOT_THEIRS:
                    raise
                self._refuse(path, refusal(error))
            except FileRefusedError as refused:
                self._refuse(path, refused)
        if into is not None:
            os.utime(into, (FIXED_TIME, FIXED_TIME))

    def _names(self, descriptor: int, parts: tuple[str, ...]) -> list[str]:
        if self._only is not None and not parts:
            return [self._only]
        names = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if self._everything or not is_left_out(entry.name):
                    names.append(entry.name)
                if len(names) > self._caps.entries:
                    self._count(parts, len(names))
        return sorted(names, key=os.fsencode)

    def _entry(self, above: int, path: tuple[str, ...], into: Path | None) -> None:
        status = os.lstat(path[-1], dir_fd=above)
        if stat.S_ISLNK(status.st_mode):
            self._link(above, path, into)
        elif stat.S_ISDIR(status.st_mode):
            self._subdirectory(above, path, into)
        else:
            check_regular(status)  # before it is opened: opening a device can act on it
            self._file(above, path, into)

    def _subdirectory(self, above: int, path: tuple[str, ...], into: Path | None) -> None:
        if len(path) > MAX_DEPTH:
            raise FileRefusedError(f"it is deeper than {MAX_DEPTH} directories", "make it flatter")
        self._record(b"directory", path)
        descriptor = _open(path[-1], _DIRECTORY_FLAGS, above)
        try:
            self.directory(descriptor, path, into)
        finally:
            os.close(descriptor)

    def _link(self, above: int, path: tuple[str, ...], into: Path | None) -> None:
        target = os.readlink(path[-1], dir_fd=above)
        if not stays_inside(target, depth=len(path) - 1):
            raise FileRefusedError(
                "it is a symbolic link that leaves the function's directory",
                "put a copy there, or remove the link",
            )
        self._record(b"link", path, os.fsencode(target))
        if into is not None:
            into.symlink_to(target)
            os.utime(into, (FIXED_TIME, FIXED_TIME), follow_symlinks=False)

    def _file(self, above: int, path: tuple[str, ...], into: Path | None) -> None:
        descriptor = _open(path[-1], OPEN_FLAGS, above)
        try:
            status = os.fstat(descriptor)
            check_regular(status)
            if not self._hard_links:
                check_hard_link(status, owner=self._owner)
            self._grow(path, status.st_size)  # a sparse file is refused before it is read
            mode = 0o755 if status.st_mode & 0o111 else 0o644
            if into is None:
                content = self._content(descriptor, path, status)
            else:
                content = _copy(descriptor, status.st_size, into, mode)
        finally:
            os.close(descriptor)
        self._record(b"executable" if mode == 0o755 else b"file", path, content)

    def _content(self, descriptor: int, path: tuple[str, ...], status: os.stat_result) -> bytes:
        """The digest of an open file's content, read only if it is not known."""
        if self._hashes is None:
            return _read(descriptor, status.st_size, lambda _: None)
        name = "/".join(path)
        known = self._hashes.get(name, status)
        if known is None:
            known = _read(descriptor, status.st_size, lambda _: None)
            self._hashes.put(name, status, known)
        return known

    def _record(self, kind: bytes, path: tuple[str, ...], content: bytes = b"") -> None:
        """Hash one entry, each part after its length, so that parts cannot be confused."""
        for part in (kind, os.fsencode("/".join(path)), content):
            self.hash.update(b"%d:" % len(part))
            self.hash.update(part)

    def _count(self, path: tuple[str, ...], entries: int = 1) -> None:
        self._entries += entries
        if self._entries > self._caps.entries:
            self._over(path, f"more than {self._caps.entries} files and directories")

    def _grow(self, path: tuple[str, ...], size: int) -> None:
        self._size += size
        if self._size > self._caps.size:
            self._over(path, f"more than {format_size(self._caps.size)} of files")

    def _over(self, path: tuple[str, ...], what: str) -> None:
        where = printable("/".join(path)) or "the directory"
        raise Refused((*self.problems, f"{where}: {what} (remove what is not needed to run)"))

    def _refuse(self, path: tuple[str, ...], refused: FileRefusedError) -> None:
        hint = f" ({refused.hint})" if refused.hint else ""
        self.problems.append(f"{printable('/'.join(path))}: {refused.message}{hint}")
        if len(self.problems) >= MOST_PROBLEMS:
            raise Refused(tuple(self.problems))


def is_left_out(name: str) -> bool:
    """Whether a file or directory of that name is never a part of a bundle."""
    return name in LEFT_OUT or _EDITORS_OWN.fullmatch(name) is not None


def stays_inside(target: str, *, depth: int) -> bool:
    """Whether a link in a directory `depth` levels down can only lead to places inside.

    `..` after a name is refused even where it looks harmless: the name may be a link itself,
    and then `..` is somewhere else.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return not target.startswith("/") and ups <= depth and ".." not in parts[ups:]


def _open_directory(path: Path) -> int:
    """Open a directory by walking to it, refusing every link on the way."""
    parts = PurePosixPath(os.path.abspath(path)).parts  # noqa: PTH100 - resolve() follows links
    descriptor = os.open(parts[0], _PASS_FLAGS)
    for part in (*parts[1:], "."):
        flags = _DIRECTORY_FLAGS if part == "." else _PASS_FLAGS
        try:
            descriptor, above = _open(part, flags, descriptor), descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(above)
    return descriptor


def _open(name: str, flags: int, above: int) -> int:
    return os.open(name, flags, dir_fd=above)


def _copy(descriptor: int, size: int, into: Path, mode: int) -> bytes:
    target = os.open(into, _CREATE_FLAGS, 0o600)
    try:
        content = _read(descriptor, size, lambda block: _write(target, block))
        os.fchmod(target, mode)
        os.utime(target, (FIXED_TIME, FIXED_TIME))
    finally:
        os.close(target)
    return content


def _read(descriptor: int, size: int, take: Callable[[bytes], None]) -> bytes:
    """The SHA-256 of an open file, up to `size`: a file that grows for ever does not stop us."""
    digest = hashlib.sha256()
    length = 0
    while length <= size and (block := os.read(descriptor, _BLOCK)):
        digest.update(block)
        take(block)
        length += len(block)
    return digest.digest()


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
