"""`DockerEngine`: the Docker engine, over its API."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import docker.errors
from docker.api import APIClient
from docker.tls import TLSConfig

from sandbox.config.settings import EngineSettings
from sandbox.engine.base import ContainerInfo, ContainerSpec, EngineInfo, Image, Volume
from sandbox.engine.docker.config import RUNTIME_NAMES, create_config
from sandbox.engine.docker.container import DockerContainer, remove_container
from sandbox.engine.docker.endpoint import find_endpoint
from sandbox.engine.docker.errors import retried, translated
from sandbox.engine.docker.images import DockerImages
from sandbox.engine.docker.volumes import DockerVolumes
from sandbox.errors import EngineUnavailableError, RuntimeNotAvailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.engine.docker.endpoint import Tls
    from sandbox.engine.docker.tls_attach import Attacher

_MIN_API: Final = (1, 41)

Observe = Callable[[str, float, bool], None]


class DockerEngine:
    """A Docker engine at the address of the settings or of Docker's variables. Connects lazily.

    `observe` gets the method and path of each call, its seconds, and whether it failed.

    Raises:
        InvalidSettingsError: its address cannot be used.
    """

    def __init__(
        self, settings: EngineSettings | None = None, *, observe: Observe | None = None
    ) -> None:
        self._observe = observe
        self._settings = settings or EngineSettings()
        self._endpoint = find_endpoint(self._settings, os.environ)
        self._client_or_none: APIClient | None = None
        self._attacher: Attacher | None = None
        self._info: EngineInfo | None = None
        self._asking = threading.RLock()

    @property
    def local(self) -> bool:
        return self._endpoint.local

    @property
    def _client(self) -> APIClient:
        with self._asking:
            if self._client_or_none is None:
                self._client_or_none = self._connect()
            return self._client_or_none

    def _connect(self) -> APIClient:
        endpoint = self._endpoint
        timeout = self._settings.timeout
        with translated("connect to the engine"):
            if not endpoint.local:
                from sandbox.engine.docker.tls_attach import Attacher  # noqa: PLC0415 - only where needed

                self._attacher = Attacher(endpoint, timeout=timeout)
            client = _Client(
                version="auto",
                base_url=endpoint.url,
                tls=_tls_config(endpoint.tls),
                timeout=timeout,
                max_pool_size=64,
            )
            client.observe = self._observe
        api_version = client.api_version
        if tuple(int(part) for part in api_version.split(".")) < _MIN_API:
            client.close()
            raise EngineUnavailableError(
                f"the engine speaks API {api_version}, which is too old",
                hint="use Docker Engine 20.10 (API 1.41) or later",
            )
        return client

    @property
    def _images(self) -> DockerImages:
        return DockerImages(self._client)

    @property
    def _volumes(self) -> DockerVolumes:
        return DockerVolumes(self._client)

    def info(self) -> EngineInfo:
        with self._asking:
            if self._info is None:
                self._info = retried("ask the engine what it is", self._ask_info)
            return self._info

    def _ask_info(self) -> EngineInfo:
        info = self._client.info()
        runtimes = info.get("Runtimes", {})
        return EngineInfo(
            name="Docker Engine",
            version=info.get("ServerVersion", ""),
            api_version=self._client.api_version,
            runtime_classes=tuple(
                name for name, runtime in RUNTIME_NAMES.items() if runtime in runtimes
            ),
            cgroup_version=info.get("CgroupVersion", "1"),
            storage=info.get("Driver", ""),
            root_dir=info.get("DockerRootDir", ""),
            architecture=info.get("Architecture", ""),
            warnings=tuple(info.get("Warnings") or ()),
            components=_components(info),
            id=info.get("ID", ""),
        )

    def create(self, spec: ContainerSpec) -> DockerContainer:
        client = self._client
        try:
            with translated("create a container"):
                created = client.create_container_from_config(create_config(spec))
        except docker.errors.ImageNotFound:
            raise RuntimeNotAvailableError(
                f"the engine has no image {spec.image}", hint="sandbox images build"
            ) from None
        except docker.errors.APIError as error:
            raise EngineUnavailableError(
                f"the engine refused to create a container: {error.explanation or error}",
                hint="sandbox doctor",
            ) from error
        container_id = created["Id"]
        try:
            with translated("attach to a container"):
                attached = self._attach(client, container_id)
            return DockerContainer(client, container_id, attached)
        except BaseException:
            self.remove(container_id)
            raise

    def _attach(self, client: APIClient, container_id: str) -> Any:
        if self._attacher is not None:
            return self._attacher.attach(client.api_version, container_id)
        return client.attach_socket(
            container_id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )

    def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        listed = retried(
            "list containers",
            lambda: self._client.containers(all=True, filters={"label": _label_filters(labels)}),
        )
        return [
            ContainerInfo(id=item["Id"], labels=item["Labels"], state=item["State"])
            for item in listed
        ]

    def describe(self, container_id: str) -> str:
        return retried(
            "inspect a container",
            lambda: json.dumps(self._client.inspect_container(container_id)),
        )

    def remove(self, container_id: str) -> None:
        retried("remove a container", lambda: remove_container(self._client, container_id))

    def image(self, reference: str) -> Image | None:
        return retried("look up an image", lambda: self._images.image(reference))

    def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        return retried("list images", lambda: self._images.images(labels))

    def build_image(
        self, context: Path, *, tag: str, build_args: Mapping[str, str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        with translated("build an image"):
            yield from self._images.build_image(
                context, tag=tag, build_args=build_args, labels=labels
            )

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:
        with translated("import an image"):
            self._images.import_image(archive, tag=tag, labels=labels)

    def remove_image(self, name: str) -> bool:
        return retried("remove an image", lambda: self._images.remove_image(name))

    def volume(self, name: str) -> Volume | None:
        return retried("look up a volume", lambda: self._volumes.volume(name))

    def volumes(self, labels: Mapping[str, str]) -> Sequence[Volume]:
        return retried("list volumes", lambda: self._volumes.volumes(_label_filters(labels)))

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> Volume:
        return retried("create a volume", lambda: self._volumes.create(name, labels=labels))

    def fill_volume(
        self, name: str, archive: Path, *, image: str, labels: Mapping[str, str]
    ) -> None:
        retried(
            "fill a volume",
            lambda: self._volumes.fill(name, archive, image=image, labels=labels),
        )

    def remove_volume(self, name: str) -> bool:
        return retried("remove a volume", lambda: self._volumes.remove(name))

    def close(self) -> None:
        if self._client_or_none is not None:
            self._client_or_none.close()
            self._client_or_none = None
        if self._attacher is not None:
            self._attacher.close()
            self._attacher = None


class _Client(APIClient):  # type: ignore[misc] # the SDK has no types
    """The SDK's client, without looking for proxies and passwords in the environment.

    An engine is reached directly, with the certificates of the settings. And looking before each
    call would be a seventh of what a container costs this process.
    """

    observe: Observe | None = None

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        if self.observe is None:
            return super().request(method, url, *args, **kwargs)
        begin, failed = time.perf_counter(), True
        try:
            answer = super().request(method, url, *args, **kwargs)
            failed = answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
            return answer
        finally:
            path = url.removeprefix(self.base_url).partition("?")[0]
            self.observe(f"{method} {path}", time.perf_counter() - begin, failed)

    @property
    def trust_env(self) -> bool:
        return False

    @trust_env.setter
    def trust_env(self, value: bool) -> None:
        """The session sets it while it is made, and asks for the engine's version then."""


def _tls_config(tls: Tls | None) -> TLSConfig | bool:
    if tls is None:
        return False
    return TLSConfig(
        client_cert=None if tls.cert is None else (str(tls.cert), str(tls.key)),
        ca_cert=None if tls.ca is None else str(tls.ca),
        verify=tls.verify,
    )


def _components(info: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the parts that run a container; the commit of a part that was built from one."""
    told = {
        "engine": info.get("ServerVersion"),
        "containerd": (info.get("ContainerdCommit") or {}).get("ID"),
        "runc": (info.get("RuncCommit") or {}).get("ID"),
        "kernel": info.get("KernelVersion"),
    }
    return {name: version for name, version in told.items() if version}


def _label_filters(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in labels.items()]
