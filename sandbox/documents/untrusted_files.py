"""Reads files of authors who are not trusted: only regular files, up to a size.

Nothing here blocks on a FIFO or a device, follows a link in place of a file, or reads through a
link that leaves its directory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Final

# O_NONBLOCK: opening a FIFO for reading would wait for its writer.
OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MISSING: Final = ("it does not exist", "create it, or correct the path")
_UNREADABLE: Final = ("it cannot be read", "make it readable: chmod a+r")
_REASONS: Final = {
    errno.ENOENT: _MISSING,
    errno.ENOTDIR: _MISSING,
    errno.ELOOP: ("it is a symbolic link", "put the file itself there"),
    errno.EACCES: _UNREADABLE,
    errno.EPERM: _UNREADABLE,
    errno.ENXIO: ("it is a socket or a device, not a file", "put a file there"),
}


class FileRefusedError(Exception):
    """A file was not read. `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def read_regular(path: Path, *, max_bytes: int, follow_links: bool = False) -> bytes:
    """The content of a regular file.

    `follow_links` is for the operator's files: a secrets manager may mount them as links.

    Raises:
        FileRefusedError: it is missing, unreadable, no regular file, a link, or larger than
            `max_bytes`.
    """
    try:
        descriptor = os.open(path, OPEN_FLAGS & ~os.O_NOFOLLOW if follow_links else OPEN_FLAGS)
    except (OSError, ValueError) as error:
        raise refusal(error) from None
    try:
        status = os.fstat(descriptor)
        check_regular(status)
        if not follow_links:
            check_hard_link(status, owner=path.parent.stat().st_uid)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise FileRefusedError(f"it is larger than {max_bytes // 1024} KiB", "make it smaller")
    return data


def check_regular(status: os.stat_result) -> None:
    """Raise FileRefusedError for anything but a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise FileRefusedError(f"it is {_kind(status.st_mode)}, not a file", "put a file there")


def check_hard_link(status: os.stat_result, *, owner: int) -> None:
    """Raise FileRefusedError for a hard link to a file of another user.

    Else an author could link to a file that only we may read. Links to files of the directory's
    `owner` are allowed: package managers make thousands of them.
    """
    if status.st_nlink > 1 and status.st_uid != owner:
        raise FileRefusedError(
            "it is a hard link to a file of another user", "put a copy of the file there"
        )


def resolve_inside(directory: Path, relative: str) -> Path:
    """The file or directory at `relative`, with all links resolved.

    `directory` must be resolved already.

    Raises:
        FileRefusedError: it does not exist, or a link on the way leaves `directory`.
    """
    try:
        resolved = (directory / relative).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise refusal(error) from None
    if not resolved.is_relative_to(directory):
        raise FileRefusedError(
            "a symbolic link on its way leaves the directory", "put the files themselves there"
        )
    return resolved


def check_relative(text: str) -> str:
    """`text` as a normal relative POSIX path: `./src/index.js` becomes `src/index.js`.

    Raises:
        ValueError: absolute, with `..`, with control characters, or not a path at all.
    """
    if not text or len(os.fsencode(text)) > 1024:
        raise ValueError("a path has between 1 and 1024 bytes")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("a path has no control characters")
    if "\\" in text:
        raise ValueError("a path is written with / and not with \\")
    path = PurePosixPath(text)
    if path.is_absolute() or text.startswith("~"):
        raise ValueError("the path must be relative, and stay inside the directory")
    if ".." in path.parts:
        raise ValueError("the path must stay inside the directory: no ..")
    # Compilers and interpreters would read it as an option.
    if text.startswith("-"):
        raise ValueError("a path does not begin with a dash")
    return str(path)


def refusal(error: Exception) -> FileRefusedError:
    """Why a file could not be opened, without a path of the host."""
    if isinstance(error, RuntimeError):
        return FileRefusedError("it is a loop of symbolic links", "remove the loop")
    if not isinstance(error, OSError) or error.errno is None:
        return FileRefusedError("its name cannot be used", "rename it")
    reason, hint = _REASONS.get(error.errno, (os.strerror(error.errno).lower(), ""))
    return FileRefusedError(reason, hint)


def _kind(mode: int) -> str:
    """The kind of file that a mode stands for, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")
