"""Delivers files to an engine on another machine: through its API, once, into volumes.

- A bundle has a volume of its own. Single files of a container, such as `/etc/hosts`, share one.
- A volume is filled under a random name, and noted in the store when it is complete. So a volume
that
  is half filled is never used, nor one that the engine made anew, empty, after somebody had removed
  it. Each engine has its own notes.
- A bundle's volume is removed after the bundle, a volume of files when no process uses them, and
the
  files of one build with the build. An engine removes no volume in use.

A socket works on one machine only. So with such an engine, nothing leads out of a container.
"""

from __future__ import annotations

import contextlib
import secrets
import tarfile
import threading
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from sandbox.engine.base import Mount, VolumeMount
from sandbox.errors import EngineUnavailableError, PolicyRefusedError, SandboxError
from sandbox.store.leases import Leases
from sandbox.store.locks import locked
from sandbox.store.owners import LABEL_OWNER, LABEL_STORE, is_alive
from sandbox.store.tree import FIXED_TIME, Caps, Tree
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sandbox.engine.base import ContainerSpec, Engine, Volume
    from sandbox.store.bundles import BundleStore
    from sandbox.store.owners import Owner

    # Makes a volume of one directory, or of files. The last argument is the id of any image.
    Fill = Callable[[str, Sequence[Path], str], Volume]

# A label: the digest of the bundle, or of the files, in a volume.
LABEL_CONTENT: Final = "alyx.sandbox.content"
# Bytes of files besides bundles: more than any build gets.
_CAPS: Final = Caps(4096 * MIB, 200_000)


class Volumes:
    """The volumes of one engine. Safe to use from many threads and processes at once."""

    def __init__(self, engine: Engine, *, bundles: BundleStore, store: Path, owner: Owner) -> None:
        self._engine = engine
        self._bundles = bundles
        self._store = store
        self._owner = owner
        self._leases = Leases(store)
        self._lock = threading.Lock()
        # Files besides bundles that this process uses until it ends.
        self._held: set[str] = set()

    @property
    def carries_sockets(self) -> bool:
        """Whether the engine has the same paths as this machine, and so its sockets."""
        return self._engine.local

    def deliver(self, spec: ContainerSpec) -> ContainerSpec:
        """`spec`, with volumes in place of this machine's directories and files."""
        return self._delivered(spec, self._keep)

    @contextlib.contextmanager
    def lend(self, spec: ContainerSpec) -> Iterator[ContainerSpec]:
        """The same; what is no bundle goes at the end."""
        lent: list[Volume] = []

        def fill(content: str, sources: Sequence[Path], image: str) -> Volume:
            lent.append(self._fill(content, sources, image))
            return lent[-1]

        try:
            yield self._delivered(spec, fill)
        finally:
            for volume in lent:
                with contextlib.suppress(SandboxError):  # `prune` will remove it
                    self._engine.remove_volume(volume.name)

    def prune(self) -> list[str]:
        """Remove the volumes of bundles that are gone, and unfinished ones of dead processes."""
        found = self._engine.volumes({LABEL_STORE: self._owner.store_id})
        removed = []
        with self._leases.removing():
            in_use = self._leases.in_use()
            for volume in found:
                content = volume.labels.get(LABEL_CONTENT, "")
                if self._note(content) == volume.name:
                    if self._bundles.holds(content) or content in in_use:
                        continue
                elif is_alive(self._store, volume.labels.get(LABEL_OWNER, "")):
                    continue  # it is being filled, or a build uses it
                if self._engine.remove_volume(volume.name):
                    removed.append(volume.name)
        return removed

    def _delivered(self, spec: ContainerSpec, fill: Fill) -> ContainerSpec:
        """`spec` with volumes. Those of bundles are kept; `fill` makes the others."""
        mounts: list[Mount | VolumeMount] = []
        files: list[Mount] = []
        for mount in spec.mounts:
            if isinstance(mount, VolumeMount):
                mounts.append(mount)
            elif mount.live:
                mounts.append(self._as_it_is(mount))
            elif mount.source.is_file():
                files.append(mount)
            else:
                digest = self._bundles.digest_at(mount.source)
                content = digest or Tree(mount.source, caps=_CAPS, everything=True).digest()
                make = self._keep if digest else fill
                volume = make(content, [mount.source], spec.image)
                mounts.append(VolumeMount(volume=volume.name, target=mount.target))
        if files:
            volume = fill(_digest_of(files), [file.source for file in files], spec.image)
            mounts += [
                VolumeMount(volume=volume.name, target=file.target, file=volume.path / str(number))
                for number, file in enumerate(files)
            ]
        return replace(spec, mounts=tuple(mounts))

    def _as_it_is(self, mount: Mount) -> Mount:
        if self.carries_sockets:
            return mount
        raise PolicyRefusedError(
            "a way out of a container is a socket of this machine, and the engine is on another",
            hint="run the server beside the engine (docs/remote.md); for builds, `build.network` "
            "can also be `bridge` or `none`",
        )

    def _keep(self, content: str, sources: Sequence[Path], image: str) -> Volume:
        """The volume of `content`, which is filled where there is none."""
        self._hold(content)
        volume = self._existing(content)
        if volume is not None:
            return volume
        # When several threads or processes want it, one fills it.
        with locked(self._store / "locks" / f"volume-{content[:2]}"):
            volume = self._existing(content)
            if volume is None:
                volume = self._fill(content, sources, image)
                self._write_note(content, volume.name)
            return volume

    def _hold(self, content: str) -> None:
        """Hold `content` while this process lives. Bundles need no hold: see `Bundle`."""
        if self._bundles.holds(content):
            return
        with self._lock:
            if content in self._held:
                return
            with self._leases.taking():
                self._leases.take(content)
            self._held.add(content)

    def _existing(self, content: str) -> Volume | None:
        """The noted volume, if the engine still has the same one."""
        name = self._note(content)
        volume = self._engine.volume(name) if name else None
        # When a container mounts a missing volume, the engine makes a new one, without labels.
        return volume if volume and volume.labels.get(LABEL_CONTENT) == content else None

    def _fill(self, content: str, sources: Sequence[Path], image: str) -> Volume:
        """A new volume with a directory, or with files named by their numbers."""
        labels = self._owner.labels("delivery")
        volume = self._engine.create_volume(
            f"alyx-sandbox-{content[:24]}-{secrets.token_hex(8)}",
            labels={**labels, LABEL_CONTENT: content},
        )
        try:
            with self._bundles.scratch() as temporary:
                archive = temporary / "archive"
                _write_archive(archive, sources)
                self._engine.fill_volume(volume.name, archive, image=image, labels=labels)
        except BaseException as error:
            with contextlib.suppress(SandboxError):
                self._engine.remove_volume(volume.name)
            if isinstance(error, OSError):
                raise EngineUnavailableError(
                    f"files could not be sent to the engine: {error}"
                ) from error
            raise
        return volume

    @cached_property
    def _notes(self) -> Path:
        """The directory of notes about this engine's volumes."""
        name = sha256(self._engine.info().id.encode()).hexdigest()[:16]
        directory = self._store / "volumes" / name
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory

    def _note(self, content: str) -> str:
        """The name of the volume that holds `content`; empty where none was noted."""
        try:
            return (self._notes / content).read_text() if content else ""
        except FileNotFoundError:
            return ""

    def _write_note(self, content: str, name: str) -> None:
        with self._bundles.scratch() as temporary:
            (temporary / "note").write_text(name)
            (temporary / "note").rename(self._notes / content)


def _digest_of(files: Sequence[Mount]) -> str:
    """SHA-256, in hex, of the contents of files, in their order."""
    digests = [sha256(file.source.read_bytes()).digest() for file in files]
    return sha256(b"alyx files 1\n" + b"".join(digests)).hexdigest()


def _write_archive(path: Path, sources: Sequence[Path]) -> None:
    """Write a tar archive of one directory, or of files, which get numbers as names.

    All entries have the modes of a bundle, one fixed time, and root as their owner.
    """
    with tarfile.open(
        path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape", encoding="utf-8"
    ) as archive:
        for number, source in enumerate(sources):
            name = "." if source.is_dir() else str(number)
            archive.add(source, arcname=name, filter=_normalised)


def _normalised(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = FIXED_TIME
    member.mode = 0o755 if member.isdir() or member.mode & 0o111 else 0o644
    return member
