"""The alternatives to the executor: `docker run`, and the engine's API without the executor."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.context import REQUEST
from benchmarks.host import process
from sandbox.engine.docker.config import RUNTIME_NAMES
from sandbox.images import catalog
from sandbox.policy.container_spec import Launch, function_spec
from sandbox.runtimes import INIT, TMP_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.deploy.deployer import Deployment
    from sandbox.engine.base import Container, ContainerSpec, Engine

_PATIENCE: Final = 30.0
_LINE: Final = (REQUEST + "\n").encode()


def spec_of(deployment: Deployment, **labels: str) -> ContainerSpec:
    """The container that the executor would make, but without a gateway's two files."""
    launch = Launch(image=deployment.image, runtime_class=deployment.runtime_class, labels=labels)
    spec = function_spec(
        deployment.function, deployment.policy, launch, bundle=deployment.bundle.path
    )
    # The report that it has booted is not read.
    command = tuple(word for word in spec.command if word != "--announce")
    return replace(spec, command=command)


def docker_run(deployment: Deployment) -> Callable[[], None]:
    """The function through the engine's own command line: same limits, same OCI runtime."""
    spec = spec_of(deployment)
    memory = str(spec.memory)
    return process([
        "docker", "run", "--rm", "--interactive",
        "--runtime", RUNTIME_NAMES[spec.runtime_class], "--network", "none", "--read-only",
        "--tmpfs", f"{TMP_DIR}:size={spec.tmp}", "--memory", memory, "--memory-swap", memory,
        "--cpus", str(spec.cpu), "--pids-limit", str(spec.pids), "--cap-drop", "ALL",
        "--log-driver", "none", "--security-opt", "no-new-privileges",
        "--user", f"{spec.uid}:{spec.gid}", "--workdir", spec.working_dir,
        *(part for name, value in spec.env.items() for part in ("--env", f"{name}={value}")),
        *(
            part
            for mount in spec.mounts
            for part in ("--volume", f"{mount.source}:{mount.target}:ro")
        ),
        spec.image, *spec.command,
    ])  # fmt: skip


@contextlib.contextmanager
def attach_echo(engine: Engine, deployment: Deployment) -> Iterator[Callable[[], None]]:
    """A line to `cat` and back through an attached stream: the floor of a warm handler.

    The container has the function's limits and init, and keeps running.
    """
    container = engine.create(_cat(engine, deployment))
    try:
        container.start()

        def echo() -> None:
            container.send(_LINE)
            _read_line(container)

        yield echo
    finally:
        container.remove()


def _cat(engine: Engine, deployment: Deployment) -> ContainerSpec:
    from dataclasses import replace  # noqa: PLC0415

    image = catalog.require(engine, "base").id
    return replace(spec_of(deployment), image=image, command=(INIT, "cat"), mounts=())


def bare_loop(engine: Engine, deployment: Deployment) -> Callable[[], None]:
    """Create, attach, start, send, read, remove: the same container without the executor."""

    def once() -> None:
        container = engine.create(spec_of(deployment))
        try:
            container.start()
            container.send(_LINE, end=True)
            answer = b""
            while b'"success"' not in answer:
                chunk = container.receive(time.monotonic() + _PATIENCE)
                assert chunk is not None, "it ended without an answer"
                answer += chunk.data if chunk.stream == "stdout" else b""
        finally:
            container.remove()

    return once


def _read_line(container: Container) -> None:
    """Read a whole line, and init's report, which follows it."""
    missing = len(_LINE)
    reported = False
    while missing > 0 or not reported:
        chunk = container.receive(time.monotonic() + _PATIENCE)
        assert chunk is not None, "the echo ended"
        if chunk.stream == "stdout":
            missing -= len(chunk.data)
        else:
            reported = True
