"""The protocols of a container engine. Code above them does not know which engine runs.

A failure of the function is a result, in `Exit`. Only a failure of the engine is an exception, and
always a `SandboxError`: each engine translates its errors once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from sandbox.errors import RuntimeNotAvailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

RuntimeClass = Literal["runc", "crun", "gvisor"]
StreamName = Literal["stdout", "stderr"]


class ContainerStartError(Exception):
    """The engine could not run the container's command; the text says why."""


class ImageBuildError(RuntimeNotAvailableError):
    """A step of an image's build failed; `details.log` holds the end of its output."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A directory or file of the host, inside the container, read-only.

    A `live` directory has sockets in it, so a copy would not do.
    """

    source: Path
    target: str
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """A volume of the engine, or one file of it, inside the container, read-only.

    `file` is the path of that file on the engine's host.
    """

    volume: str
    target: str
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """Everything that decides how a container runs. Sizes in bytes, `cpu` in cores."""

    image: str
    command: tuple[str, ...]
    working_dir: str
    env: Mapping[str, str]
    uid: int
    gid: int
    mounts: tuple[Mount | VolumeMount, ...]
    memory: int
    cpu: float
    pids: int
    tmp: int
    tmp_exec: bool = False
    # Further writable directories, each as large as /tmp.
    scratch: tuple[str, ...] = ()
    shm: int
    open_files: int
    file_size: int
    seccomp: str
    masked_paths: tuple[str, ...]
    read_only_paths: tuple[str, ...]
    runtime_class: RuntimeClass
    network: Literal["none", "bridge"] = "none"
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Bytes of one stream of the container, in the order written."""

    stream: StreamName
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Exit:
    """The end of a container's first process, as the engine saw it."""

    exit_code: int | None
    oom_killed: bool
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in the engine. `size` is in bytes."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    size: int


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume in the engine. `path` is its directory on the engine's host."""

    name: str
    path: Path
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ContainerInfo:
    """A container in the engine."""

    id: str
    labels: Mapping[str, str]
    state: str


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Facts about the engine. `runtime_classes` are the OCI runtimes that it has.

    `id` stays with the engine's data. `components` has the versions of parts that it tells, such as
    `engine`, `containerd`, `runc` and `kernel`.
    """

    name: str
    version: str
    api_version: str
    runtime_classes: tuple[RuntimeClass, ...]
    cgroup_version: str
    storage: str
    root_dir: str
    architecture: str
    warnings: tuple[str, ...]
    components: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


class Container(Protocol):
    """A container, created and attached. Call the methods in the order in which they stand here."""

    @property
    def id(self) -> str:
        """The engine's id of the container."""

    def start(self) -> None:
        """Start its process.

        Raises:
            ContainerStartError: the engine could not run the command.
        """

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Queue bytes for stdin, and with `end` its end of file; `receive` delivers them."""

    @property
    def sending(self) -> bool:
        """Whether the container has not taken all bytes yet; `receive` delivers them."""

    @property
    def received(self) -> bool:
        """Whether `receive` returns at once, even if the descriptor is not readable."""

    def fileno(self) -> int:
        """A descriptor to poll: it becomes readable when `receive` has something."""

    def receive(self, deadline: float) -> Chunk | None:
        """The next bytes of stdout or stderr, or None once both have ended.

        `deadline` is on the clock of `time.monotonic`. Raises TimeoutError if nothing comes until
        then.
        """

    def kill(self) -> None:
        """Kill every process in it, if it runs; returns when it is dead.

        An engine may wait until the output is read: call `receive` meanwhile, or `close` first.
        """

    def wait(self, timeout: float) -> Exit:
        """Wait up to `timeout` seconds for its end. Raises TimeoutError if it still runs."""

    def close(self) -> None:
        """Close its streams: further output is lost. May be called twice."""

    def remove(self) -> None:
        """Close its streams, kill it if it runs, and remove it. May be called twice."""


class Engine(Protocol):
    """A container engine."""

    @property
    def local(self) -> bool:
        """Whether it is on this machine, so that a path means the same for both."""

    def info(self) -> EngineInfo:
        """Facts about the engine. Raises EngineUnavailableError."""

    def create(self, spec: ContainerSpec) -> Container:
        """A container for `spec`, attached to its stdio and not started yet.

        Raises:
            RuntimeNotAvailableError: the engine lacks the image.
            EngineUnavailableError: the engine cannot be reached, or refuses the spec.
        """

    def containers(self, labels: Mapping[str, str]) -> Sequence[ContainerInfo]:
        """All containers, running or not, that carry these labels ("" stands for any value)."""

    def describe(self, container_id: str) -> str:
        """Everything that the engine has on record of a container, as text."""

    def remove(self, container_id: str) -> None:
        """Kill and remove a container by id. It is no error if it is gone."""

    def image(self, reference: str) -> Image | None:
        """The image of that name, or None."""

    def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        """All images that carry these labels."""

    def build_image(
        self, context: Path, *, tag: str, build_args: Mapping[str, str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        """Build the Dockerfile in the directory `context`; yields the lines of its output.

        Raises:
            ImageBuildError: a step of the Dockerfile failed.
        """

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:
        """Make an image of one layer out of a tar archive of a root file system."""

    def remove_image(self, name: str) -> bool:
        """Remove an image by name or id, unless it is in use. Returns whether it is gone."""

    def volume(self, name: str) -> Volume | None:
        """The volume of that name, or None."""

    def volumes(self, labels: Mapping[str, str]) -> Sequence[Volume]:
        """All volumes that carry these labels ("" stands for any value)."""

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> Volume:
        """Make an empty volume."""

    def fill_volume(
        self, name: str, archive: Path, *, image: str, labels: Mapping[str, str]
    ) -> None:
        """Lay out a tar archive in a volume, through a container of `image` that never starts."""

    def remove_volume(self, name: str) -> bool:
        """Remove a volume, unless it is in use. Returns whether it is gone."""

    def close(self) -> None:
        """Close the connections to the engine."""
