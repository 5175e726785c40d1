"""Bundles: immutable, content-addressed copies of functions' directories and of build output.

    store/                mode 0700: other users have no access
      bundles/DIGEST/     the copy; directories 755, files 644 or 755, one fixed time
      builds/KEY          the digest of the bundle that a build gave
      hashes/ID           digests of the files of one directory, by the files' state
      leases/, used/      which process uses which bundle, and its last use (`sandbox.store.leases`)
      locks/NN            held while a build of a key that begins with NN is under way
      temporary/ID/       a copy or a build under way, locked by its process

A bundle appears and disappears by a rename. So a killed process leaves half-made files only in
`temporary`, and later processes clear them. The store is a cache: it can be removed whenever no
process uses it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from sandbox.errors import InvalidManifestError, InvalidSettingsError
from sandbox.store.cold_functions import ColdFunctions
from sandbox.store.file_hashes import FileHashes
from sandbox.store.leases import Leases, long_ago
from sandbox.store.locks import claimed, locked
from sandbox.store.tree import FIXED_TIME, Caps, ChangedError, Refused, Tree
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_T = TypeVar("_T")
CAPS: Final = Caps(256 * MIB, 20_000)
_BUILT: Final = Caps(4096 * MIB, 200_000)
# A bundle is removed after so many seconds without use: a week.
KEPT: Final = 7 * 86400.0
_KEY: Final = re.compile(r"[0-9a-f]{16,128}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# After so many changes while a directory is read, the read fails.
_ATTEMPTS: Final = 5
# After so many seconds, the process that made a temporary directory has locked it.
_STALE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Bundle:
    """An immutable copy. `digest` is a SHA-256 in hex, and `path` the directory to mount.

    The store keeps it at least as long as this object lives.
    """

    digest: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class StoredBundle:
    """A bundle on disk. `size` is in bytes, and counts a hard link once.

    `last_used` is in seconds since 1970.
    """

    digest: str
    size: int
    files: int
    in_use: bool
    last_used: float


class BundleStore:
    """The bundles of one directory. Safe to use from many threads and processes at once.

    Raises:
        InvalidSettingsError: the directory can't be used, or belongs to another user.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bundles = root / "bundles"
        self._builds = root / "builds"
        self._locks = root / "locks"
        self._temporaries = root / "temporary"
        self._hashes = root / "hashes"
        _make_private(root)
        for directory in (
            self._bundles, self._builds, self._locks, self._temporaries, self._hashes,
        ):  # fmt: skip
            directory.mkdir(mode=0o700, exist_ok=True)
        self._leases = Leases(root)
        self.cold_functions = ColdFunctions(root)

    def snapshot(
        self,
        source: Path,
        *,
        single_file: bool = False,
        caps: Caps = CAPS,
        digest: str | None = None,
    ) -> Bundle:
        """The bundle of a directory, or with `single_file` of one file, as it is now.

        If the store has the bundle, this hashes only changed files; nothing, if `digest` is the
        result of a call of that method just before. `source` must have no links on its way.
        `sandbox.store.tree` says where links may lead and what is left out.

        Raises:
            InvalidManifestError: something in it can't be in a bundle, it is over a cap, or it
                does not stop changing; `details.problems` lists every such file.
        """
        tree = Tree(source, single_file=single_file, caps=caps)
        return self._store(tree, hashes=self._hashes_of(source), digest=digest)

    def digest(self, source: Path, *, single_file: bool = False, caps: Caps = CAPS) -> str:
        """The digest of the bundle that `snapshot` would make. Copies nothing.

        Raises: see `snapshot`.
        """
        tree = Tree(source, single_file=single_file, caps=caps)
        return _while_it_changes(lambda: _digest_of(tree, hashes=self._hashes_of(source)))

    def cached(self, key: str) -> Bundle | None:
        """The bundle published under `key` (16 to 128 hex digits), if the store still has it."""
        try:
            digest = (self._builds / _checked(key)).read_text()
        except FileNotFoundError:
            return None
        return self._existing(digest) if _DIGEST.fullmatch(digest) else None

    def publish(self, key: str, directory: Path) -> Bundle:
        """Make a bundle of `directory`, the output of a build, and keep it under `key`.

        Files of any user are accepted, because a build runs as a user of its own. A bundle that was
        kept under `key` is replaced.

        Raises:
            InvalidManifestError: something in it can't be in a bundle.
        """
        tree = Tree(directory.resolve(), caps=_BUILT, hard_links=True)
        return self._note(key, self._store(tree))

    def adopt(self, key: str, directory: Path) -> Bundle:
        """Move `directory` into the store as a bundle, and keep it under `key`.

        The directory is in one of `scratch`. This process owns its files, which have the modes and
        times of a bundle.

        Raises:
            InvalidManifestError: something in it can't be in a bundle.
        """
        digest = _digest_of(Tree(directory.resolve(), caps=_BUILT, everything=True))
        return self._note(key, self._move(directory, digest))

    def produce(self, key: str, build: Callable[[Path], None], *, adopt: bool = False) -> Bundle:
        """The bundle of `key`. If there is none, `build` makes it in a directory that it is given.

        When several callers in any process want one key, one builds and the others wait. An error
        of `build` is passed on, and nothing is kept. `build` must not call `produce`. With `adopt`,
        the directory is adopted, else published.
        """
        with locked(self._locks / _checked(key)[:2]):
            bundle = self.cached(key)
            if bundle is not None:
                return bundle
            with self.scratch() as temporary:
                output = temporary / "output"
                output.mkdir(mode=0o755)
                output.chmod(0o755)
                build(output)
                return self.adopt(key, output) if adopt else self.publish(key, output)

    def merge(self, parts: Sequence[Bundle], *, without: Sequence[str] = ()) -> Bundle:
        """Lay bundles over each other: files of later ones replace files of earlier ones.

        `without` are paths to leave out of the first one. The result shares files by hard links,
        which is safe because nothing ever writes to a bundle's file.

        Raises:
            InvalidManifestError: one has a file where another has a directory.
        """
        words = ["alyx merge 1", *(part.digest for part in parts), "without", *without]
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
        bundle = self._existing(digest)
        if bundle is not None:
            return bundle
        with self.scratch() as temporary:
            merged = temporary / "merged"
            merged.mkdir()
            first, *others = parts
            for part in reversed(others):
                _lay_under(part.path, merged)
            _lay_under(first.path, merged, without=frozenset(without))
            return self._move(merged, digest)

    def bundles(self) -> list[StoredBundle]:
        """All bundles, the most recently used first."""
        with self._leases.removing():
            uses = self._leases.uses()
            digests = [path.name for path in self._bundles.iterdir()]
        found = []
        for digest in digests:
            size, files = _measure(self._bundles / digest)
            use = uses.get(digest)
            found.append(
                StoredBundle(
                    digest=digest,
                    size=size,
                    files=files,
                    in_use=use is not None and use.in_use,
                    last_used=0.0 if use is None else use.last,
                )
            )
        return sorted(found, key=lambda bundle: -bundle.last_used)

    def prune(self, *, older_than: float = KEPT) -> list[str]:
        """Remove every bundle that no process uses, and none has used for `older_than` seconds.

        Returns their digests. Files that a remaining bundle shares stay on disk.
        """
        before = long_ago(older_than)
        removed = []
        with self.scratch() as temporary:
            with self._leases.removing():
                uses = self._leases.uses()
                for path in list(self._bundles.iterdir()):
                    use = uses.get(path.name)
                    if use is None or not (use.in_use or use.last > before):
                        path.rename(temporary / path.name)
                        removed.append(path.name)
                for digest in uses:
                    if not (self._bundles / digest).is_dir():
                        self._leases.forget(digest)
                self._forget_builds()
            for path in temporary.iterdir():
                shutil.rmtree(path, ignore_errors=True)
        for hashes in self._hashes.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if hashes.stat().st_mtime <= before:
                    hashes.unlink()
        return removed

    def digest_at(self, path: Path) -> str | None:
        """The digest of the bundle whose directory `path` is; None if it is none."""
        return path.name if path.parent == self._bundles else None

    def holds(self, digest: str) -> bool:
        """Whether the store has this bundle now. Another process may remove it at any time."""
        return (self._bundles / digest).is_dir()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary directory. If this process is killed, a later one removes it."""
        self._clear_stale()
        path = self._temporaries / uuid.uuid4().hex
        path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield path
        finally:
            # Files of another user, from a build, may stay until root clears them.
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def _hashes_of(self, source: Path) -> Path:
        """The file with the digests of that directory's files."""
        return self._hashes / hashlib.sha256(os.fsencode(source)).hexdigest()[:32]

    def _store(
        self, tree: Tree, *, hashes: Path | None = None, digest: str | None = None
    ) -> Bundle:
        def store() -> Bundle:
            nonlocal digest
            # The caller's digest may be out of date. A second attempt must not use it.
            current, digest = digest or _digest_of(tree, hashes=hashes), None
            return self._existing(current) or self._copy(tree, current)

        return _while_it_changes(store)

    def _existing(self, digest: str) -> Bundle | None:
        """Take a lease on the bundle of that digest; None if there is none."""
        path = self._bundles / digest
        with self._leases.taking():
            return self._take(digest) if path.is_dir() else None

    def _take(self, digest: str) -> Bundle:
        bundle = Bundle(digest, self._bundles / digest)
        self._leases.take(digest)
        weakref.finalize(bundle, self._leases.release, digest).atexit = False
        return bundle

    def _copy(self, tree: Tree, digest: str) -> Bundle:
        """Copy the tree into the store. Raises ChangedError if it has changed."""
        with self.scratch() as temporary:
            copy = temporary / "bundle"
            if _digest_of(tree, into=copy) != digest:
                raise ChangedError
            return self._move(copy, digest)

    def _move(self, directory: Path, digest: str) -> Bundle:
        """Rename a finished directory to its place as the bundle of that digest."""
        path = self._bundles / digest
        with self._leases.taking():
            try:
                directory.rename(path)
            except OSError:
                # Another process was faster; the content is the same.
                if not path.is_dir():
                    raise
            return self._take(digest)

    def _note(self, key: str, bundle: Bundle) -> Bundle:
        with self.scratch() as temporary:
            note = temporary / "digest"
            note.write_text(bundle.digest)
            note.rename(self._builds / _checked(key))
        return bundle

    def _forget_builds(self) -> None:
        for note in self._builds.iterdir():
            digest = note.read_text(errors="replace")
            if not (_DIGEST.fullmatch(digest) and (self._bundles / digest).is_dir()):
                note.unlink()

    def _clear_stale(self) -> None:
        """Remove what killed processes left; the kernel has dropped their locks."""
        for path in self._temporaries.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < _STALE_SECONDS:
                    continue
                with claimed(path) as dead:
                    if dead:
                        shutil.rmtree(path, ignore_errors=True)


def _while_it_changes(read: Callable[[], _T]) -> _T:
    """Read a tree again for as long as `read` raises ChangedError, up to a number of attempts."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(ChangedError):
            return read()
    raise InvalidManifestError(
        "its files do not stop changing while they are read",
        hint="stop what writes to the function's directory, and try again",
    )


def _digest_of(tree: Tree, *, into: Path | None = None, hashes: Path | None = None) -> str:
    """The tree's digest. Files that `hashes` knows are not read.

    Raises:
        InvalidManifestError: something can't be in a bundle.
    """
    known = None if hashes is None else FileHashes(hashes)
    try:
        digest = tree.digest(into=into, hashes=known)
        if known is not None:
            known.save()
        return digest
    except Refused as refused:
        raise InvalidManifestError(
            f"its files cannot be deployed: {refused.problems[0]}",
            details={"problems": list(refused.problems)},
        ) from None


def _lay_under(source: Path, into: Path, *, without: frozenset[str] = frozenset()) -> None:
    """Link everything of `source` into `into`, except names that are there already."""
    _lay_entries_under(source, into, "", without)


def _lay_entries_under(source: Path, into: Path, above: str, without: frozenset[str]) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            name = f"{above}{entry.name}"
            if name in without:
                continue
            target = into / entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if target.is_dir() and not target.is_symlink():
                if not is_directory:
                    raise _clash(name)
            elif target.is_symlink() or target.exists():
                if is_directory:
                    raise _clash(name)
                continue
            elif is_directory:
                target.mkdir()
            elif entry.is_symlink():
                target.symlink_to(Path(entry.path).readlink())
                os.utime(target, (FIXED_TIME, FIXED_TIME), follow_symlinks=False)
            else:
                _link(Path(entry.path), target)
            if is_directory:
                _lay_entries_under(Path(entry.path), target, f"{name}/", without)
    into.chmod(0o755)
    os.utime(into, (FIXED_TIME, FIXED_TIME))


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file has as many links as it can have."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)


def _clash(name: str) -> InvalidManifestError:
    return InvalidManifestError(
        f"its files and its dependencies or its build's output both have {name!a}, once as a "
        "file and once as a directory",
        hint="rename it among the function's files",
    )


def _measure(directory: Path) -> tuple[int, int]:
    """Bytes and number of the files below a directory, without files that disappear meanwhile."""
    size = files = 0
    for above, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(above, name)).st_size  # noqa: PTH118
                files += 1
    return size, files


def _checked(key: str) -> str:
    """`key`, which becomes a file name."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not 16 to 128 hex digits")
    return key


def _make_private(root: Path) -> None:
    """Make the store's directory. Raises InvalidSettingsError if other users can write to it."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o700:
            root.chmod(0o700)
    except OSError as error:
        raise InvalidSettingsError(
            f"the store {root} cannot be used: {os.strerror(error.errno or 0)}",
            hint="set `store` to a directory that this user can write to",
        ) from None
    if status.st_uid != os.geteuid():
        raise InvalidSettingsError(
            f"the store {root} belongs to another user, who could change what is run",
            hint="set `store` to a directory of this user's own",
        )
