"""Volumes in the Docker engine: look up, make, fill, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import docker.errors

from sandbox.engine.base import Volume
from sandbox.engine.docker.config import fill_config
from sandbox.engine.docker.container import remove_container
from sandbox.engine.docker.errors import gone_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker.api import APIClient

# The volume's place in the container that fills it.
_TARGET: Final = "/function"


class DockerVolumes:
    """The volume part of `DockerEngine`. Raises the SDK's errors."""

    def __init__(self, client: APIClient) -> None:
        self._client = client

    def volume(self, name: str) -> Volume | None:
        try:
            return _volume(self._client.inspect_volume(name))
        except docker.errors.NotFound:
            return None

    def volumes(self, label_filters: list[str]) -> list[Volume]:
        listed = self._client.volumes(filters={"label": label_filters})
        return [_volume(found) for found in listed["Volumes"] or ()]

    def create(self, name: str, *, labels: Mapping[str, str]) -> Volume:
        return _volume(self._client.create_volume(name, labels=dict(labels)))

    def fill(self, name: str, archive: Path, *, image: str, labels: Mapping[str, str]) -> None:
        config = fill_config(image, name, target=_TARGET, labels=labels)
        container_id = self._client.create_container_from_config(config)["Id"]
        try:
            with archive.open("rb") as file:
                self._client.put_archive(container_id, _TARGET, file)
        finally:
            remove_container(self._client, container_id)

    def remove(self, name: str) -> bool:
        return gone_after(lambda: self._client.remove_volume(name))


def _volume(found: Mapping[str, Any]) -> Volume:
    return Volume(
        name=found["Name"], path=Path(found["Mountpoint"]), labels=dict(found.get("Labels") or {})
    )
