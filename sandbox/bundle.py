"""Bundles: immutable, content-addressed copies of functions' directories, and of what was built.

    store/                mode 0700: nobody else gets in
      bundles/DIGEST/     the copy; directories 755, files 644 or 755, one fixed time
      builds/KEY          the digest of the bundle that a build gave
      hashes/ID           digests of the files of one directory, by their state
      leases/, used/      who uses which bundle, and when it was last used (`sandbox.leases`)
      locks/NN            held while a build of a key that begins with NN is under way
      temporary/ID/       a copy or a build under way, locked by the process that makes it

A bundle appears by a rename, and goes by one, so a process that is killed leaves nothing
half-made behind but in `temporary`, which later processes clear. The store is a cache: it can be
removed at any time that nothing uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
import uuid
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.errors import InvalidManifestError, InvalidSettingsError
from sandbox.hashes import FileHashes
from sandbox.leases import Leases, long_ago
from sandbox.tree import FIXED_TIME, Caps, ChangedError, Refused, Tree
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_BYTES: Final = 256 * MIB
MAX_FILES: Final = 20_000
_BUILT: Final = Caps(4096 * MIB, 200_000)
# A bundle that nobody has used for so long, in seconds, is removed: two weeks.
KEPT: Final = 14 * 86400.0
_KEY: Final = re.compile(r"[0-9a-f]{16,128}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# How often a directory may change while it is read before that is an error.
_ATTEMPTS: Final = 5
# Old enough that its maker has had the time to lock it.
_STALE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Bundle:
    """An immutable copy. `digest` is a SHA-256 in hex, and `path` the directory to mount."""

    digest: str
    path: Path


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

    def snapshot(
        self,
        source: Path,
        *,
        single_file: bool = False,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
    ) -> Bundle:
        """The bundle of a directory, or with `single_file` of one file, as it is now.

        Only hashes what has changed when the store has it already. `source` must have no links
        on its way. What a link is, where it may lead and what is left out: see `sandbox.tree`.

        Raises:
            InvalidManifestError: something in it can't be in a bundle, it is over a cap, or it
                does not stop changing; `details.problems` lists every such file.
        """
        tree = Tree(source, single_file=single_file, caps=Caps(max_bytes, max_files))
        name = hashlib.sha256(os.fsencode(source)).hexdigest()[:32]
        return self._store(tree, hashes=self._hashes / name)

    def cached(self, key: str) -> Bundle | None:
        """The bundle that was published under `key`, 16 to 128 hex digits, if it is still there."""
        try:
            digest = (self._builds / _checked(key)).read_text()
        except FileNotFoundError:
            return None
        return self._existing(digest) if _DIGEST.fullmatch(digest) else None

    def publish(self, key: str, directory: Path) -> Bundle:
        """Keep what a build left in `directory`, under `key`; replaces what was there.

        Files of any user are taken: a build runs as a user of its own.

        Raises:
            InvalidManifestError: something in it can't be in a bundle.
        """
        caps = Caps(1024 * MIB, 100_000)
        bundle = self._store(Tree(directory.resolve(), caps=caps, hard_links=True))
        with self._temporary() as temporary:
            note = temporary / "digest"
            note.write_text(bundle.digest)
            note.rename(self._builds / _checked(key))
        return bundle

    def produce(self, key: str, build: Callable[[Path], None]) -> Bundle:
        """The bundle of `key`; where there is none, `build` makes it in the directory it is given.

        Of several callers with one key, in this process or in others, one builds while the
        others wait. What `build` raises is passed on, and nothing is kept. `build` may not
        produce anything itself. For `adopt`, see there.
        """
        with self._locked(_checked(key)):
            bundle = self.cached(key)
            if bundle is not None:
                return bundle
            with self._temporary() as temporary:
                output = temporary / "output"
                output.mkdir()
                build(output)
                return self.publish(key, output)

    def _store(self, tree: Tree) -> Bundle:
        for _ in range(_ATTEMPTS):
            try:
                digest = tree.digest()
                return self._existing(digest) or self._copy(tree, digest)
            except ChangedError:
                continue
        raise InvalidManifestError(
            "its files do not stop changing while they are read",
            hint="stop what writes to the function's directory, and try again",
        )

    def _existing(self, digest: str) -> Bundle | None:
        path = self._bundles / digest
        return Bundle(digest, path) if path.is_dir() else None

    def _copy(self, tree: Tree, digest: str) -> Bundle:
        """Copy the tree into the store. Raises ChangedError where it is no longer the same."""
        with self._temporary() as temporary:
            copy = temporary / "bundle"
            if tree.digest(into=copy) != digest:
                raise ChangedError
            path = self._bundles / digest
            try:
                copy.rename(path)
            except OSError:
                # Somebody else was faster; the content is the same.
                if not path.is_dir():
                    raise
            return Bundle(digest, path)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A directory that goes away, at the latest after this process has ended."""
        self._clear_stale()
        path = self._temporaries / uuid.uuid4().hex
        path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield path
        finally:
            # What another user made in a build's output may stay, until root clears it.
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def _clear_stale(self) -> None:
        """Remove what processes left that were killed; the kernel has dropped their locks."""
        for path in self._temporaries.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < _STALE_SECONDS:
                    continue
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        descriptor = os.open(self._locks / key[:2], os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _checked(key: str) -> str:
    """`key`, which becomes a file name."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not 16 to 128 hex digits")
    return key


def _make_private(root: Path) -> None:
    """Make the store's directory, and be sure that nobody else can put bundles into it."""
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
