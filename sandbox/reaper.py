"""Who owns a container, and removal of those whose owner is gone.

Every process that starts containers holds a lock on a file of its own in the store, and labels
its containers with that file's name. The kernel drops the lock when the process ends, however
it ends; so a container whose owner's lock can be taken is an orphan. Process ids are not used:
they are reused, and mean nothing in another PID namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Final

from sandbox.locks import claimed

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.engine.base import Engine

log = logging.getLogger(__name__)

LABEL_OWNER: Final = "alyx.sandbox.owner"
# Several stores may share one engine; each reaps only what belongs to it.
LABEL_STORE: Final = "alyx.sandbox.store"
LABEL_FUNCTION: Final = "alyx.sandbox.function"

_GATEWAYS: Final = "gateways"


class Owner:
    """This process's claim on the containers it starts, held until `close`."""

    def __init__(self, store: Path) -> None:
        self._directory = store / "owners"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = uuid.uuid4().hex
        self.store_id = _store_id(store)
        # Where this process's gateways keep their sockets.
        self.gateways = store / _GATEWAYS / self.id
        self._path = self._directory / self.id
        # Locked before it has its name: nobody may find it unlocked and take us for dead.
        unnamed = self._directory / f".{self.id}"
        self._descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        unnamed.rename(self._path)

    def labels(self, function: str) -> dict[str, str]:
        """The labels of a container that serves `function`."""
        return {LABEL_OWNER: self.id, LABEL_STORE: self.store_id, LABEL_FUNCTION: function}

    def close(self) -> None:
        """Give up the claim; call it when no container of this owner is left."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)


def orphans(engine: Engine, store: Path) -> list[str]:
    """Ids of this store's containers whose owner is gone."""
    containers = engine.containers({LABEL_STORE: _store_id(store)})
    owners = {container.labels.get(LABEL_OWNER, "") for container in containers}
    gone = {owner for owner in owners if not is_alive(store, owner)}
    return [item.id for item in containers if item.labels.get(LABEL_OWNER, "") in gone]


def reap(engine: Engine, store: Path) -> int:
    """Remove this store's orphaned containers, sockets and claims; returns how many containers."""
    found = orphans(engine, store)
    for container_id in found:
        log.warning("removing container %s, left behind by a process that ended", container_id)
        engine.remove(container_id)
    with contextlib.suppress(FileNotFoundError):
        for directory in (store / _GATEWAYS).iterdir():
            if not is_alive(store, directory.name):
                shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        for claim in (store / "owners").iterdir():
            if not claim.name.startswith(".") and not is_alive(store, claim.name):
                claim.unlink(missing_ok=True)
    return len(found)


def is_alive(store: Path, owner: str) -> bool:
    """Whether some process holds the owner's lock."""
    try:
        with claimed(store / "owners" / os.path.basename(owner)) as dead:  # noqa: PTH119
            return not dead
    except FileNotFoundError:
        return False


def _store_id(store: Path) -> str:
    """An id that stays with the store's directory."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = store / "id"
    if not path.exists():
        # Whole at once: who starts at the same time must not read an empty one.
        draft = store / f"id.{uuid.uuid4().hex}"
        draft.write_text(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text()
