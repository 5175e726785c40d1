"""The fake engine: containers, images and volumes of this process."""

from __future__ import annotations

import itertools
import tarfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.engine.base import ContainerInfo, EngineInfo, Image, Volume, VolumeMount
from sandbox.errors import EngineUnavailableError, RuntimeNotAvailableError
from sandbox.images import image_recipes as recipes
from sandbox.runtimes import FUNCTION_DIR
from sandbox.store.owners import LABEL_FUNCTION
from sandbox.testing.builds import BuildProgram, FakeBuild, default_build
from sandbox.testing.container import FakeContainer
from sandbox.testing.functions import FakeFunction, FunctionProgram

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sandbox.engine.base import ContainerSpec, Mount
    from sandbox.testing.builds import Build
    from sandbox.testing.container import Program
    from sandbox.testing.functions import Answer, Operation
    from sandbox.testing.process import FakeProcess

# What a build reads is mounted there.
_READ: Final = ("/src", "/request")
_SHELL: Final = ("sh", "-c")


class FakeEngine:
    """See `sandbox.engine.base.Engine`. It has all of the project's images, up to date.

    `functions` says by name how the containers of a function behave; a callable stands for a
    `FakeFunction` with that `answer`. All other functions behave like `default`, which answers
    with the input. `build` plays the containers that install and build. An engine that is not
    `local` is on another machine: files get there in volumes.

    Set `failures` and `delays` (in seconds) to make calls fail or take time, by their names; set
    `unreachable` to make all of them fail. Safe to use from many threads.
    """

    def __init__(
        self,
        functions: Mapping[str, FakeFunction | Answer] | None = None,
        *,
        default: FakeFunction | Answer = FakeFunction(),  # noqa: B008 - frozen
        build: Build = default_build,
        local: bool = True,
    ) -> None:
        self._functions = {name: _function(each) for name, each in (functions or {}).items()}
        self._default = _function(default)
        self._build = build
        self.local = local
        self.failures: dict[Operation, Exception] = {}
        self.delays: dict[Operation, float] = {}
        self.unreachable = False
        # Containers made so far.
        self.created = 0
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._containers: dict[str, FakeContainer] = {}
        self._volumes: dict[str, tuple[Volume, dict[str, bytes]]] = {}
        self._images = {
            tag: Image(
                id=f"sha256:{name}",
                tags=(tag,),
                labels=recipes.labels(name, recipes.folder(), base="fake"),
                size=0,
            )
            for name, tag in ((name, recipes.reference(name)) for name in recipes.RECIPES)
        }

    def info(self) -> EngineInfo:
        """An engine that has crun."""
        self._called("info")
        return EngineInfo(
            name="fake", version="1", api_version="1.41", runtime_classes=("runc", "crun"),
            cgroup_version="2", storage="none", root_dir="", architecture="x86_64", warnings=(),
            id="fake",
        )  # fmt: skip

    def create(self, spec: ContainerSpec) -> FakeContainer:
        """A container that is not started yet."""
        function = self._behaviour(spec)
        self._called("create", function)
        image = self._image(spec.image)
        program: Program
        if spec.working_dir == str(FUNCTION_DIR):
            program = FunctionProgram(function, spec)
        else:
            program = BuildProgram(self._build, partial(self._given, spec, image))
        with self._lock:
            self.created += 1
            container_id = f"fake-{next(self._numbers)}"
            container = FakeContainer(
                container_id,
                spec,
                program,
                called=partial(self._called, function=function),
                forget=lambda: self._forget(container_id),
            )
            self._containers[container_id] = container
        return container

    def containers(self, labels: Mapping[str, str]) -> Sequence[ContainerInfo]:
        """Those that carry these labels."""
        self._called("containers")
        return [
            ContainerInfo(id=item.id, labels=item.spec.labels, state=item.state)
            for item in self._held()
            if _match(item.spec.labels, labels)
        ]

    def describe(self, container_id: str) -> str:
        """The container's spec."""
        return repr(self._containers[container_id].spec)

    def remove(self, container_id: str) -> None:
        """Remove a container by id."""
        container = self._containers.get(container_id)
        if container is not None:
            container.discard()

    def image(self, reference: str) -> Image | None:
        """The image of that name."""
        self._called("image")
        return self._images.get(reference)

    def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        """Those that carry these labels."""
        return [image for image in self._images.values() if _match(image.labels, labels)]

    def build_image(
        self,
        context: Path,
        *,
        tag: str,
        build_args: Mapping[str, str],  # noqa: ARG002
        labels: Mapping[str, str],
    ) -> Iterator[str]:
        """Nothing is built, and the image is there; the one output line names the Dockerfile."""
        yield f"built {context / 'Dockerfile'}"
        self._add_image(tag, labels)

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:  # noqa: ARG002
        """Nothing is read, and the image is there."""
        self._add_image(tag, labels)

    def remove_image(self, name: str) -> bool:
        """Forget an image, unless a container has it."""
        found = [tag for tag, image in self._images.items() if name in (tag, image.id)]
        used = {item.spec.image for item in self._held()}
        for tag in found:
            if not used & {tag, self._images[tag].id}:
                del self._images[tag]
        return not any(tag in self._images for tag in found)

    def volume(self, name: str) -> Volume | None:
        """The volume of that name."""
        return self._volumes[name][0] if name in self._volumes else None

    def volumes(self, labels: Mapping[str, str]) -> Sequence[Volume]:
        """Those that carry these labels."""
        return [item for item, _ in list(self._volumes.values()) if _match(item.labels, labels)]

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> Volume:
        """An empty volume."""
        volume = Volume(name=name, path=Path("/fake/volumes", name), labels=labels)
        self._volumes[name] = volume, {}
        return volume

    def fill_volume(
        self,
        name: str,
        archive: Path,
        *,
        image: str,  # noqa: ARG002
        labels: Mapping[str, str],  # noqa: ARG002
    ) -> None:
        """Keep the contents of an archive's files."""
        _, files = self._volumes[name]
        with tarfile.open(archive) as opened:
            for member in opened:
                content = opened.extractfile(member)
                if content is not None:
                    files[str(Path(member.name))] = content.read()

    def remove_volume(self, name: str) -> bool:
        """Forget a volume, unless a container has it."""
        mounts = [mount for item in self._held() for mount in item.spec.mounts]
        if any(isinstance(mount, VolumeMount) and mount.volume == name for mount in mounts):
            return False
        self._volumes.pop(name, None)
        return True

    def close(self) -> None:
        """Nothing is held."""

    def _called(self, operation: Operation, function: FakeFunction | None = None) -> None:
        """Before each call: fail, or take time, if the test asks for that."""
        if self.unreachable:
            raise EngineUnavailableError("the fake engine is unreachable")
        for behaviour in (self,) if function is None else (self, function):
            if operation in behaviour.delays:
                time.sleep(behaviour.delays[operation])
            if operation in behaviour.failures:
                raise behaviour.failures[operation]

    def _behaviour(self, spec: ContainerSpec) -> FakeFunction:
        return self._functions.get(spec.labels.get(LABEL_FUNCTION, ""), self._default)

    def _held(self) -> list[FakeContainer]:
        with self._lock:
            return list(self._containers.values())

    def _forget(self, container_id: str) -> None:
        with self._lock:
            self._containers.pop(container_id, None)

    def _image(self, name: str) -> Image:
        """The image of that name or id. Raises RuntimeNotAvailableError."""
        for image in list(self._images.values()):
            if name == image.id or name in image.tags:
                return image
        raise RuntimeNotAvailableError(f"the fake engine has no image {name}")

    def _add_image(self, tag: str, labels: Mapping[str, str]) -> None:
        image_id = f"sha256:{labels.get(recipes.LABEL_IMAGE, tag)}-{next(self._numbers)}"
        self._images[tag] = Image(id=image_id, tags=(tag,), labels=labels, size=0)

    def _given(self, spec: ContainerSpec, image: Image, process: FakeProcess) -> FakeBuild:
        """What a build is given."""
        command: tuple[str, ...] = ()
        if _SHELL[0] in spec.command:
            # Before it stand init and its options; behind it, the script.
            command = spec.command[spec.command.index(_SHELL[0]) + len(_SHELL) + 1 :]
        files: dict[str, bytes] = {}
        for target in _READ:
            for mount in spec.mounts:
                if mount.target == target:
                    files |= self._files(mount)
        return FakeBuild(
            function=spec.labels.get(LABEL_FUNCTION, ""),
            command=command,
            image=image.labels.get(recipes.LABEL_IMAGE, ""),
            env=spec.env,
            files=files,
            process=process,
        )

    def _files(self, mount: Mount | VolumeMount) -> Mapping[str, bytes]:
        if isinstance(mount, VolumeMount):
            return self._volumes[mount.volume][1]
        return {
            str(path.relative_to(mount.source)): path.read_bytes()
            for path in mount.source.rglob("*")
            if path.is_file()
        }


def _function(behaviour: FakeFunction | Answer) -> FakeFunction:
    return behaviour if isinstance(behaviour, FakeFunction) else FakeFunction(answer=behaviour)


def _match(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(name in labels and value in ("", labels[name]) for name, value in wanted.items())
