"""Owners of containers: each process that starts containers keeps a file locked.

The file is in the store, and its name is a label of the containers. The kernel drops the lock when
the process ends, however it ends. So a container is an orphan if its owner's lock can be taken.
Process ids would not do: the kernel reuses them, and they mean nothing in another PID namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from typing import TYPE_CHECKING, Final

from sandbox.store.locks import claimed

if TYPE_CHECKING:
    from pathlib import Path

LABEL_OWNER: Final = "alyx.sandbox.owner"
# Several stores may share one engine. Each reaps only its own containers.
LABEL_STORE: Final = "alyx.sandbox.store"
LABEL_FUNCTION: Final = "alyx.sandbox.function"

GATEWAYS: Final = "gateways"
OWNERS: Final = "owners"


class Owner:
    """This process's claim on the containers it starts, held until `close`."""

    def __init__(self, store: Path) -> None:
        self._directory = store / OWNERS
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = uuid.uuid4().hex
        self.store_id = store_id(store)
        # The directory for the sockets of this process's gateways.
        self.gateways = store / GATEWAYS / self.id
        self._path = self._directory / self.id
        # Locked before it has its name: no process may find it unlocked and take us for dead.
        unnamed = self._directory / f".{self.id}"
        self._descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        unnamed.rename(self._path)

    def labels(self, function: str) -> dict[str, str]:
        return {LABEL_OWNER: self.id, LABEL_STORE: self.store_id, LABEL_FUNCTION: function}

    def close(self) -> None:
        """Give up the claim. Call it when no container of this owner is left."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)


def is_alive(store: Path, owner: str) -> bool:
    """Whether some process holds the owner's lock."""
    try:
        with claimed(store / OWNERS / os.path.basename(owner)) as dead:  # noqa: PTH119
            return not dead
    except FileNotFoundError:
        return False


def store_id(store: Path) -> str:
    """The id of the store, which stays with its directory."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = store / "id"
    if not path.exists():
        # Written at once: a process that starts at the same time must not read an empty file.
        draft = store / f"id.{uuid.uuid4().hex}"
        draft.write_text(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text()
