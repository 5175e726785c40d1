"""The Docker engine, over its API: the only module, with `docker_images`, that imports `docker`."""

from __future__ import annotations

import contextlib
import os
import select
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import docker.errors
import requests.exceptions
from docker.api import APIClient
from docker.utils import kwargs_from_env

from sandbox.engine.base import (
    Chunk,
    ContainerInfo,
    ContainerSpec,
    ContainerStartError,
    EngineInfo,
    Exit,
    Image,
    RuntimeClass,
)
from sandbox.engine.docker_images import DockerImages
from sandbox.errors import EngineUnavailableError, RuntimeNotAvailableError
from sandbox.protocol.frames import FrameDecoder, ProtocolError
from sandbox.runtimes import TMP_DIR

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

_READ_SIZE: Final = 64 * 1024
# The engine's own names for the OCI runtimes.
_RUNTIME_NAMES: Final[Mapping[RuntimeClass, str]] = {
    "runc": "runc",
    "crun": "crun",
    "gvisor": "runsc",
}
_MIN_API: Final = (1, 41)


class DockerEngine:
    """A Docker engine, reached at `host` or where the environment says.

    `timeout` (seconds) bounds each call that should be quick. Connects lazily.
    """

    def __init__(self, *, host: str | None = None, timeout: float = 30.0) -> None:
        options = kwargs_from_env(os.environ)
        if host is not None:
            options["base_url"] = host
        self._options = options | {"timeout": timeout, "max_pool_size": 64}
        self._client_or_none: APIClient | None = None
        self._info: EngineInfo | None = None

    @property
    def _client(self) -> APIClient:
        if self._client_or_none is None:
            with _translated("connect to the engine"):
                client = APIClient(version="auto", **self._options)
            api_version = client.api_version
            if tuple(int(part) for part in api_version.split(".")) < _MIN_API:
                client.close()
                raise EngineUnavailableError(
                    f"the engine speaks API {api_version}, which is too old",
                    hint="use Docker Engine 20.10 (API 1.41) or later",
                )
            self._client_or_none = client
        return self._client_or_none

    @property
    def _images(self) -> DockerImages:
        return DockerImages(self._client)

    def info(self) -> EngineInfo:
        """What the engine is and can do; asked once. Raises EngineUnavailableError."""
        if self._info is None:
            self._info = _retried("ask the engine what it is", self._ask_info)
        return self._info

    def _ask_info(self) -> EngineInfo:
        info = self._client.info()
        runtimes = info.get("Runtimes", {})
        return EngineInfo(
            name="Docker Engine",
            version=info.get("ServerVersion", ""),
            api_version=self._client.api_version,
            runtime_classes=tuple(
                name for name, runtime in _RUNTIME_NAMES.items() if runtime in runtimes
            ),
            cgroup_version=info.get("CgroupVersion", "1"),
            storage=info.get("Driver", ""),
            root_dir=info.get("DockerRootDir", ""),
            architecture=info.get("Architecture", ""),
            warnings=tuple(info.get("Warnings") or ()),
        )

    def create(self, spec: ContainerSpec) -> DockerContainer:
        """A container for `spec`, attached and not started. See `Engine.create`."""
        client = self._client
        try:
            with _translated("create a container"):
                created = client.create_container_from_config(create_config(spec))
        except docker.errors.ImageNotFound:
            raise RuntimeNotAvailableError(
                f"the engine has no image {spec.image}", hint="sandbox images build"
            ) from None
        container_id = created["Id"]
        try:
            with _translated("attach to a container"):
                attached = client.attach_socket(
                    container_id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                )
            return DockerContainer(client, container_id, attached)
        except BaseException:
            self.remove(container_id)
            raise

    def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """All containers that carry these labels. See `Engine.containers`."""
        listed = _retried(
            "list containers",
            lambda: self._client.containers(all=True, filters={"label": _label_filters(labels)}),
        )
        return [
            ContainerInfo(id=item["Id"], labels=item["Labels"], state=item["State"])
            for item in listed
        ]

    def remove(self, container_id: str) -> None:
        """Kill and remove a container by id; one that is gone already is no error."""
        _retried("remove a container", lambda: _remove(self._client, container_id))

    def image(self, reference: str) -> Image | None:
        """The image of that name, or None."""
        return _retried("look up an image", lambda: self._images.image(reference))

    def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        """All images that carry these labels."""
        return _retried("list images", lambda: self._images.images(labels))

    def build_image(
        self, context: Path, *, tag: str, build_args: Mapping[str, str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        """Build a Dockerfile; yields its output. See `Engine.build_image`."""
        with _translated("build an image"):
            yield from self._images.build_image(
                context, tag=tag, build_args=build_args, labels=labels
            )

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:
        """Make an image out of a tar archive of a root file system."""
        with _translated("import an image"):
            self._images.import_image(archive, tag=tag, labels=labels)

    def remove_image(self, name: str) -> bool:
        """Remove an image by name or id. Returns whether it is gone: one in use stays."""
        return _retried("remove an image", lambda: self._images.remove_image(name))

    def close(self) -> None:
        """Close the connections to the engine."""
        if self._client_or_none is not None:
            self._client_or_none.close()
            self._client_or_none = None


class DockerContainer:
    """One container, with its attached stream. See `sandbox.engine.base.Container`."""

    def __init__(self, client: APIClient, container_id: str, attached: Any) -> None:
        self.id = container_id
        self._client = client
        # What the SDK hands out is a file object around the socket, tied to the response.
        self._attached = attached
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._socket.setblocking(False)
        self._decoder = FrameDecoder()
        self._received: deque[Chunk] = deque()
        self._outgoing = memoryview(b"")
        self._end_pending = False
        self._ended = False
        self._removed = False

    def start(self) -> None:
        """Start its process. Raises ContainerStartError."""
        try:
            with _translated("start a container"):
                self._client.start(self.id)
        except docker.errors.APIError as error:
            raise ContainerStartError(error.explanation or str(error)) from error

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Queue bytes for stdin; what the stream takes at once goes at once."""
        self._outgoing = memoryview(bytes(self._outgoing) + data)
        self._end_pending = self._end_pending or end
        self._flush()

    def receive(self, deadline: float) -> Chunk | None:
        """The next bytes, or None at the end; delivers what `send` queued. Raises TimeoutError."""
        while not self._received:
            if self._ended:
                return None
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            poll = select.poll()
            wants_write = bool(self._outgoing) or self._end_pending
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if wants_write else 0))
            for _, events in poll.poll(remaining * 1000):
                if events & select.POLLOUT:
                    self._flush()
                if events & ~select.POLLOUT:
                    self._read()
        return self._received.popleft()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                self._outgoing = self._outgoing[sent:]
            if self._end_pending:
                self._end_pending = False
                self._socket.shutdown(1)  # SHUT_WR: with StdinOnce this ends the function's stdin
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError:
            # The function ended, or closed its stdin, before it had read all: no fault of ours.
            self._outgoing = memoryview(b"")
            self._end_pending = False

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ConnectionError:
            data = b""
        if data:
            try:
                self._received.extend(self._decoder.feed(data))
            except ProtocolError as error:
                raise EngineUnavailableError(f"the engine's stream is garbled: {error}") from error
        else:
            self._ended = True

    def kill(self) -> None:
        """Kill every process in it; one that has ended already is left as it is."""
        with _translated("kill a container"), _ignoring(404, 409):
            self._client.kill(self.id)

    def wait(self, timeout: float) -> Exit:
        """How it ended. Raises TimeoutError while it still runs after `timeout` seconds."""
        try:
            with _translated("wait for a container"):
                self._client.wait(self.id, timeout=max(timeout, 0.001))
        except requests.exceptions.ReadTimeout:
            raise TimeoutError from None
        with _translated("inspect a container"):
            state = self._client.inspect_container(self.id)["State"]
        return Exit(
            exit_code=state["ExitCode"], oom_killed=state["OOMKilled"], error=state.get("Error", "")
        )

    def remove(self) -> None:
        """Close its streams, kill it if it runs, and remove it. May be called twice."""
        # First: the engine waits with the end of a container until its output has been taken.
        self.close()
        if not self._removed:
            _retried("remove a container", lambda: _remove(self._client, self.id))
            self._removed = True

    def close(self) -> None:
        """Close the attached stream. May be called twice."""
        with contextlib.suppress(OSError):
            self._attached._response.close()
        with contextlib.suppress(OSError):
            self._attached.close()
        with contextlib.suppress(OSError):
            self._socket.close()


def create_config(spec: ContainerSpec) -> dict[str, Any]:
    """The body of the engine's `POST /containers/create` for `spec`; pure."""
    tmp_options = ["rw", "nosuid", "nodev", f"size={spec.tmp}", "mode=1777", "nr_inodes=65536"]
    return {
        "Image": spec.image,
        "Entrypoint": [],
        "Cmd": list(spec.command),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "WorkingDir": spec.working_dir,
        "User": f"{spec.uid}:{spec.gid}",
        "Hostname": "sandbox",
        "Labels": dict(spec.labels),
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": spec.network == "none",
        "HostConfig": {
            "Runtime": _RUNTIME_NAMES[spec.runtime_class],
            "NetworkMode": spec.network,
            "ReadonlyRootfs": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", f"seccomp={spec.seccomp}"],
            "MaskedPaths": list(spec.masked_paths),
            "ReadonlyPaths": list(spec.read_only_paths),
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": str(mount.source),
                    "Target": mount.target,
                    "ReadOnly": mount.read_only,
                    "BindOptions": {"Propagation": "rprivate"},
                }
                for mount in spec.mounts
            ],
            "Tmpfs": {TMP_DIR: ",".join([*tmp_options, "exec" if spec.tmp_exec else "noexec"])},
            "ShmSize": min(spec.tmp, 64 * 1024 * 1024),
            "Memory": spec.memory,
            # Memory and swap together: equal means no swap.
            "MemorySwap": spec.memory,
            "NanoCpus": round(spec.cpu * 1e9),
            "PidsLimit": spec.pids,
            "Ulimits": [
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nofile", "Soft": spec.open_files, "Hard": spec.open_files},
                {"Name": "fsize", "Soft": spec.file_size, "Hard": spec.file_size},
            ],
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
        },
    }


def _remove(client: APIClient, container_id: str) -> None:
    # 409: somebody else is removing it this moment.
    with _ignoring(404, 409):
        client.remove_container(container_id, force=True, v=True)


def _label_filters(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in labels.items()]


@contextlib.contextmanager
def _ignoring(*statuses: int) -> Iterator[None]:
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in statuses:
            raise


@contextlib.contextmanager
def _translated(action: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors, by type and status, never by matching text.

    An answer below 500 is left to the caller, who knows what it means; so is a read that ran out
    of time, where waiting was the purpose.
    """
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code is not None and error.status_code < 500:
            raise
        raise EngineUnavailableError(
            f"the engine failed to {action}: {error.explanation or error}",
            hint="sandbox doctor",
        ) from error
    except requests.exceptions.ReadTimeout:
        raise
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
        raise EngineUnavailableError(
            f"no container engine answers (trying to {action})",
            hint="start it: `make engine` on Debian or Ubuntu, else start Docker; "
            "or set DOCKER_HOST; `sandbox doctor` says more",
        ) from error


def _retried(action: str, call: Callable[[], T]) -> T:
    """`call`, which must be idempotent, tried again while the engine does not answer."""
    try:
        return _once(action, call)
    except EngineUnavailableError:
        # Imported only when needed: it costs every start of the command line 30 ms.
        from tenacity import (  # noqa: PLC0415
            Retrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_exponential,
        )

        retrying = Retrying(
            retry=retry_if_exception_type(EngineUnavailableError),
            stop=stop_after_attempt(2),
            wait=wait_exponential(multiplier=0.05, max=1),
            reraise=True,
        )
        result: T = retrying(_once, action, call)
        return result


def _once(action: str, call: Callable[[], T]) -> T:
    try:
        with _translated(action):
            return call()
    except requests.exceptions.ReadTimeout as error:
        raise EngineUnavailableError(
            f"the engine took too long to {action}", hint="sandbox doctor"
        ) from error
    except docker.errors.APIError as error:
        raise EngineUnavailableError(
            f"the engine refused to {action}: {error.explanation or error}", hint="sandbox doctor"
        ) from error
