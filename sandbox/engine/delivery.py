"""Delivers the files that containers mount.

An engine that sees this machine's disk mounts them from there. Any other engine gets them through
its API, into volumes: `sandbox.engine.volume_delivery`.
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
    """Turns the mounts of a spec into mounts that the engine can make."""

    @property
    def carries_sockets(self) -> bool:
        """Whether a container can have a socket of this machine."""

    def deliver(self, spec: ContainerSpec) -> ContainerSpec:
        """`spec` with mounts of files that the engine has.

        Raises:
            EngineUnavailableError: the engine does not take the files.
            PolicyRefusedError: it mounts a socket, which cannot be delivered.
        """

    def lend(self, spec: ContainerSpec) -> AbstractContextManager[ContainerSpec]:
        """The same for a while: afterwards, the engine keeps only bundles."""

    def prune(self) -> list[str]:
        """Remove the volumes of bundles that are gone. Returns their names."""


def delivery_of(
    engine: Engine,
    settings: EngineSettings,
    *,
    bundles: BundleStore,
    store: Path,
    owner: Owner,
) -> Delivery:
    """The delivery of the settings. `auto` depends on where the engine is."""
    if settings.delivery == "mount" or (settings.delivery == "auto" and engine.local):
        return HostMounts()
    from sandbox.engine.volume_delivery import Volumes  # noqa: PLC0415 - brings tarfile; most need none of it

    return Volumes(engine, bundles=bundles, store=store, owner=owner)


class HostMounts:
    """For an engine that sees this machine's disk: nothing to do."""

    carries_sockets = True

    def deliver(self, spec: ContainerSpec) -> ContainerSpec:
        return spec

    def lend(self, spec: ContainerSpec) -> AbstractContextManager[ContainerSpec]:
        return contextlib.nullcontext(spec)

    def prune(self) -> list[str]:
        return []
