"""Unpacks the result of a build, a tar archive from the stdout of its container.

So a build can write to nothing of the host, only to a `/tmp` of limited size. The archive is not
trusted, because any code in the container may have written it.

- It accepts files, directories and links, names that stay inside, and each name once.
- It makes symbolic links last, so it never writes through one.
- Modes become 644 and 755, times one fixed time, owners this process's user.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from sandbox.errors import BuildFailedError
from sandbox.store.tree import FIXED_TIME, MAX_DEPTH, NOT_THEIRS
from sandbox.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ENTRIES: Final = 100_000
# A header is read into memory as a whole. None needs more than this.
_MOST_AT_ONCE: Final = MIB
# Headers of one member, and those for all members, which each member gets a copy of.
_MAX_PAX_HEADERS: Final = 100
_BLOCK: Final = 256 * 1024


class Archive:
    """An archive from a container, kept in the file `path`, up to `cap` bytes."""

    def __init__(self, path: Path, *, cap: int) -> None:
        self._file = path.open("w+b")
        # Headers and padding take a kibibyte of each entry.
        self._left = cap + MOST_ENTRIES * 1024
        self._cap = cap

    def take(self, data: bytes) -> None:
        """Append bytes. Raises BuildFailedError over the cap."""
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._cap)
        self._file.write(data)

    def unpack(self, into: Path) -> None:
        """Unpack the archive into the empty directory `into`.

        Raises:
            BuildFailedError: it is no archive, has forbidden entries, or is too large.
        """
        self._file.seek(0)
        try:
            with tarfile.open(
                fileobj=_Bounded(self._file), mode="r:", errors="surrogateescape"
            ) as archive:
                _Unpacking(archive, into, cap=self._cap).run()
            _normalise(into)
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise BuildFailedError(f"what the build left cannot be read: {error}") from None

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()


class _Bounded(io.RawIOBase):
    """A file for `tarfile` that refuses the huge reads of a hostile header."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError("a header is too large")
        return self._file.read(size)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number in itertools.count():
        member = archive.next()
        if member is None:
            return
        # It would keep every member, each with a copy of all headers so far.
        archive.members.clear()  # type: ignore[attr-defined]
        if number >= MOST_ENTRIES:
            raise BuildFailedError(f"the build left more than {MOST_ENTRIES} files and directories")
        if (
            len(archive.pax_headers) > _MAX_PAX_HEADERS
            or len(member.pax_headers) > _MAX_PAX_HEADERS
        ):
            raise tarfile.ReadError("it has too many headers")
        yield member


class _Unpacking:
    """The unpacking of one archive into the directory `into`."""

    def __init__(self, archive: tarfile.TarFile, into: Path, *, cap: int) -> None:
        self._archive = archive
        self._into = into
        self._cap = cap
        self._size = 0
        self._links: dict[str, str] = {}

    def run(self) -> None:
        for member in _members(self._archive):
            parts = _parts(member.name)
            if not parts:
                continue  # the directory itself
            name = "/".join(parts)
            if name in self._links:
                raise _twice(name)
            with _told(name):
                self._take(member, self._into / name, name)
        for name, link in self._links.items():
            with _told(name):
                (self._into / name).symlink_to(link)

    def _take(self, member: tarfile.TarInfo, path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.isdir():
            path.mkdir(exist_ok=True)
        elif member.issym():
            self._links[name] = member.linkname
        elif member.islnk():
            target = self._into.joinpath(*_parts(member.linkname))
            os.link(target, path, follow_symlinks=False)
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            self._size += member.size
            if self._size > self._cap:
                raise _too_large(self._cap)
            _write(self._archive, member, path)
        else:
            raise BuildFailedError(f"the build left a device or another special file: {name!a}")


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn errors of one entry into BuildFailedError, except errors of this machine."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _twice(name) from None
    except OSError as error:
        if error.errno in NOT_THEIRS:
            raise
        reason = os.strerror(error.errno or 0).lower()
        raise BuildFailedError(f"the build left what cannot be kept: {name!a}: {reason}") from None


def _parts(name: str) -> list[str]:
    """The parts of an entry's name. Raises BuildFailedError if it leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(parts) > MAX_DEPTH:
        raise BuildFailedError(f"the build left a name that leads elsewhere: {name!a}")
    return parts


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - it is a regular file
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        left = member.size
        while left and (block := content.read(min(left, _BLOCK))):
            file.write(block)
            left -= len(block)
        os.fchmod(descriptor, 0o755 if member.mode & 0o111 else 0o644)
    if left:
        raise tarfile.ReadError("it ends too soon")


def _normalise(directory: Path) -> None:
    """Give all directories one mode, and everything one time."""
    for above, directories, files in os.walk(directory, topdown=False):
        for name in (*files, *directories):
            os.utime(Path(above, name), (FIXED_TIME, FIXED_TIME), follow_symlinks=False)
        Path(above).chmod(0o755)
    os.utime(directory, (FIXED_TIME, FIXED_TIME))


def _too_large(cap: int) -> BuildFailedError:
    return BuildFailedError(f"the build left more than {format_size(cap)} (`build.output`)")


def _twice(name: str) -> BuildFailedError:
    return BuildFailedError(f"the build left two things of one name: {name!a}")
