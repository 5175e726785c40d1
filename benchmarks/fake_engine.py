"""An engine without containers: what a container would say is said at once, in this process.

With it, what an invocation costs is the executor's own work, and ten thousand of them take
seconds. It says what the images' init and bootstraps say, marks included (`images/base/init.c`,
`sandbox.protocol.report`, `sandbox.protocol.handler`); the function's output is its input.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sandbox.engine.base import Chunk, ContainerInfo, EngineInfo, Exit, Image
from sandbox.images.catalog import expected_inputs
from sandbox.images.image_recipes import IMAGE_NAMES, LABEL_IMAGE, LABEL_INPUTS, reference
from sandbox.protocol.report import MARK, NONCE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.engine.base import ContainerSpec

_REPORT: Final[Mapping[str, Any]] = {
    "exit_code": None, "signal": None, "exec_errno": None, "cpu_ms": 1.5,
    "peak_memory_bytes": 9_000_000, "oom_kills": 0, "pids_denied": 0, "tmp_bytes": 0,
    "tmp_full": False, "shm_full": False, "largest_file": None, "denied": [], "denied_more": 0,
    "stdout_bytes": 0,
}  # fmt: skip
_KILLED: Final = 137


class FakeContainer:
    """See `sandbox.engine.base.Container`. Its descriptor is an event that tells of chunks."""

    def __init__(self, engine: FakeEngine, container_id: str, spec: ContainerSpec) -> None:
        self.id = container_id
        self.spec = spec
        self._engine = engine
        self._handler = "--handler" in spec.command
        self._mark = MARK.decode() + spec.env[NONCE_VARIABLE]
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._said: deque[Chunk] = deque()
        self._heard = b""
        self._stdout_bytes = 0
        self._exit_code: int | None = None
        self._closed = False

    def start(self) -> None:
        """Boot, which takes no time: it waits for its request."""
        if self._handler:
            self._say("stdout", '{"type":"ready"}\n')
            self._report()
        elif "--announce" in self.spec.command:
            self._say("stderr", self._mark + '{"ready":true}\n')

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Answer each request as soon as its line is whole."""
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in filter(None, lines):
            self._answer(json.loads(line))
        if end:
            self._end(0)

    @property
    def sending(self) -> bool:
        """Never: it takes everything at once."""
        return False

    @property
    def received(self) -> bool:
        """Whether it has said something, or has ended."""
        return bool(self._said) or self._exit_code is not None

    def fileno(self) -> int:
        """The event's descriptor."""
        return self._event

    def receive(self, deadline: float) -> Chunk | None:
        """The next chunk, or None once it has ended. Raises TimeoutError."""
        if not self.received:
            poll = select.poll()
            poll.register(self._event, select.POLLIN)
            poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)
            if not self.received:
                raise TimeoutError
        if not self._said:
            return None
        chunk = self._said.popleft()
        if not self._said and self._exit_code is None:
            os.eventfd_read(self._event)
        return chunk

    def kill(self) -> None:
        """End it, as by SIGKILL: without a last report."""
        if self._exit_code is None:
            self._exit_code = _KILLED
            if not self._closed:
                os.eventfd_write(self._event, 1)

    def wait(self, timeout: float) -> Exit:
        """How it ended. Raises TimeoutError while it has not."""
        if self._exit_code is None:
            time.sleep(timeout)
            raise TimeoutError
        return Exit(exit_code=self._exit_code, oom_killed=False)

    def close(self) -> None:
        """Close the event. May be called twice."""
        if not self._closed:
            self._closed = True
            os.close(self._event)

    def remove(self) -> None:
        """Close it, and forget it. May be called twice."""
        self.close()
        self._engine.forget(self.id)

    def _answer(self, request: Mapping[str, Any]) -> None:
        response = {
            "request_id": request["request_id"], "success": True, "output": request["input"],
        }  # fmt: skip
        message = {"type": "response", **response} if self._handler else response
        self._say("stdout", json.dumps(message) + "\n")
        self._report()

    def _end(self, exit_code: int) -> None:
        self._report(exit_code=exit_code)
        self._exit_code = exit_code

    def _report(self, **fields: int) -> None:
        report = {**_REPORT, "stdout_bytes": self._stdout_bytes, **fields}
        self._say("stderr", f"{self._mark}{json.dumps(report)}\n")

    def _say(self, stream: Any, text: str) -> None:
        data = text.encode()
        if stream == "stdout":
            self._stdout_bytes += len(data)
        quiet = not self._said
        self._said.append(Chunk(stream, data))
        if quiet:
            os.eventfd_write(self._event, 1)


class FakeEngine:
    """See `sandbox.engine.base.Engine`. It has all of the project's images, up to date."""

    local = True

    def __init__(self) -> None:
        self._images = {
            reference(name): Image(
                id=f"sha256:{name}",
                tags=(reference(name),),
                labels={LABEL_IMAGE: name, LABEL_INPUTS: expected_inputs(name)},
                size=0,
            )
            for name in IMAGE_NAMES
        }
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._containers: dict[str, FakeContainer] = {}
        # Containers made so far.
        self.created = 0

    def info(self) -> EngineInfo:
        """An engine that has crun."""
        return EngineInfo(
            name="fake", version="1", api_version="1.41", runtime_classes=("runc", "crun"),
            cgroup_version="2", storage="none", root_dir="", architecture="x86_64", warnings=(),
        )  # fmt: skip

    def create(self, spec: ContainerSpec) -> FakeContainer:
        """A container that is not started yet."""
        with self._lock:
            self.created += 1
            container = FakeContainer(self, f"fake-{next(self._numbers)}", spec)
            self._containers[container.id] = container
        return container

    def containers(self, labels: Mapping[str, str]) -> Sequence[ContainerInfo]:
        """Those that carry these labels."""
        with self._lock:
            found = list(self._containers.values())
        return [
            ContainerInfo(id=item.id, labels=item.spec.labels, state="running")
            for item in found
            if all(
                name in item.spec.labels and value in ("", item.spec.labels[name])
                for name, value in labels.items()
            )
        ]

    def remove(self, container_id: str) -> None:
        """Remove a container by id."""
        container = self._containers.get(container_id)
        if container is not None:
            container.remove()

    def forget(self, container_id: str) -> None:
        """A container was removed."""
        with self._lock:
            self._containers.pop(container_id, None)

    def image(self, name: str) -> Image | None:
        """The image of that name."""
        return self._images.get(name)

    def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        """All images: they carry the labels that are asked for."""
        return [image for image in self._images.values() if labels.keys() <= image.labels.keys()]

    def build_image(
        self, context: Path, *, tag: str, build_args: Mapping[str, str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        """Not possible here. Raises NotImplementedError."""
        raise NotImplementedError("the fake engine builds no images")

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:
        """Not possible here. Raises NotImplementedError."""
        raise NotImplementedError("the fake engine imports no images")

    def remove_image(self, name: str) -> bool:
        """Forget an image."""
        return self._images.pop(name, None) is not None

    def close(self) -> None:
        """Nothing is held."""
