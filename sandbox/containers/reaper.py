"""Removes what a killed process left behind: containers, sockets, claims."""

from __future__ import annotations

import contextlib
import logging
import shutil
from typing import TYPE_CHECKING

from sandbox.store.owners import GATEWAYS, LABEL_OWNER, LABEL_STORE, OWNERS, is_alive, store_id

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.engine.base import Engine

log = logging.getLogger(__name__)


def orphans(engine: Engine, store: Path) -> list[str]:
    """The ids of this store's containers whose owner is gone."""
    containers = engine.containers({LABEL_STORE: store_id(store)})
    owners = {container.labels.get(LABEL_OWNER, "") for container in containers}
    gone = {owner for owner in owners if not is_alive(store, owner)}
    return [item.id for item in containers if item.labels.get(LABEL_OWNER, "") in gone]


def reap(engine: Engine, store: Path) -> int:
    """Remove this store's orphaned containers, sockets and claims. Returns how many containers."""
    found = orphans(engine, store)
    for container_id in found:
        log.warning("removing container %s, left behind by a process that ended", container_id)
        engine.remove(container_id)
    with contextlib.suppress(FileNotFoundError):
        for directory in (store / GATEWAYS).iterdir():
            if not is_alive(store, directory.name):
                shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        for claim in (store / OWNERS).iterdir():
            if not claim.name.startswith(".") and not is_alive(store, claim.name):
                claim.unlink(missing_ok=True)
    return len(found)
