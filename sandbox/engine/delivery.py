"""How files get into containers: everything that a container mounts goes through here.

Where the engine sees this machine's disk, they are mounted as they lie there. Where it does not,
they travel through its API into volumes that it keeps: `sandbox.engine.volume_delivery`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sandbox.config.settings import EngineSettings
    from sandbox.engine.base import ContainerSpec, Engine
    from sandbox.store.bundles import BundleStore
    from sandbox.store.owners import Owner


class Delivery(Protocol):
    """Turns the mounts of a spec into such as the engine can make."""

    @property
    def carries_sockets(self) -> bool:
        """Whether a container can be given a socket of this machine."""

    def deliver(self, spec: ContainerSpec) -> ContainerSpec:
        """`spec`, with all that it mounts where the engine has it.

        Raises:
            EngineUnavailableError: the engine does not take it.
            PolicyRefusedError: it mounts a socket, which cannot get there.
        """

    def lend(self, spec: ContainerSpec) -> AbstractContextManager[ContainerSpec]:
        """The same for a while: what is no bundle is gone from the engine afterwards."""

    def prune(self) -> list[str]:
        """Remove what the engine has of bundles that are gone. Returns the volumes' names."""


def delivery_of(
    engine: Engine,
    settings: EngineSettings,
    *,
    bundles: BundleStore,
    store: Path,
    owner: Owner,
) -> Delivery:
    """The delivery that the settings ask for; `auto` follows where the engine is."""
    if settings.delivery == "mount" or (settings.delivery == "auto" and engine.local):
        return HostMounts()
    from sandbox.engine.volume_delivery import Volumes  # noqa: PLC0415 - brings tarfile; most need none of it

    return Volumes(engine, bundles=bundles, store=store, owner=owner)


class HostMounts:
    """The engine sees this machine's disk: there is nothing to do."""

    carries_sockets = True

    def deliver(self, spec: ContainerSpec) -> ContainerSpec:
        return spec

    def lend(self, spec: ContainerSpec) -> AbstractContextManager[ContainerSpec]:
        return contextlib.nullcontext(spec)

    def prune(self) -> list[str]:
        return []
