"""Removes what killed processes left behind: containers, sockets, claims."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from typing import TYPE_CHECKING, Final

from sandbox.errors import SandboxError
from sandbox.store.owners import GATEWAYS, LABEL_OWNER, LABEL_STORE, OWNERS, is_alive, store_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.engine.base import Engine

log = logging.getLogger(__name__)


REAP_SECONDS: Final = 30.0


class Reaper:
    """Calls `sweep` in a thread, at `start` and then every `REAP_SECONDS`, until `close`."""

    def __init__(self, sweep: Callable[[], object]) -> None:
        self._sweep = sweep
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        # Taken by the first `start`: invocations call it in several threads at once.
        self._begun = threading.Lock()

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._begun.acquire(blocking=False):
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._sweep()
            except (SandboxError, OSError) as error:
                log.info("could not look for what others left: %s", error)
            self._closing.wait(REAP_SECONDS)


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
