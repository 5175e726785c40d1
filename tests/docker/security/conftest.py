"""Hostile functions in real containers, through `Sandbox`, under each OCI runtime.

`arena.attack(code)` runs one and holds what is true of every case: one typed result in time, and
nothing of the host in what the caller sees. Afterwards `aftermath` looks, from the host, for
what the containers left behind, and invokes an honest function.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox, SandboxError, Settings
from sandbox.config.loading import merge
from sandbox.functions.discovery import function_from_path
from sandbox.images.image_recipes import reference
from sandbox.models import FunctionResponse
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sandbox.engine.base import Container, ContainerSpec
    from sandbox.engine.docker.engine import DockerEngine

RUNTIME_CLASSES = ("runc", "crun", "gvisor")
# How much later than its time limit an invocation may end, on a machine that does other things.
GRACE = 15.0
PROJECT = Path(__file__).parents[3]
# Never in what a caller sees: where the engine, the store and this project keep their files.
HOST_PATHS = ("/var/lib/docker", "/run/docker", "/run/containerd", "docker.sock", str(PROJECT))

HONEST = """
def handler(ctx):
    return {"echo": ctx.input, "answer": 42}
"""


class RecordingEngine:
    """A real engine that remembers the containers it was asked for, and may change their specs."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self.created: list[str] = []
        self.change: Callable[[ContainerSpec], ContainerSpec] = lambda spec: spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def create(self, spec: ContainerSpec) -> Container:
        container = self._engine.create(self.change(spec))
        self.created.append(container.id)
        return container

    def close(self) -> None:
        """The real engine is closed by whoever made it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How an invocation ended: a response, or an exception of the platform."""

    response: FunctionResponse | None
    error: SandboxError | None
    seconds: float

    @property
    def code(self) -> str:
        """The error's code, or `OK`."""
        if self.error is not None:
            return str(self.error.code)
        assert self.response is not None
        return "OK" if self.response.error is None else str(self.response.error.code)

    @property
    def output(self) -> Any:
        """What a function answered that succeeded."""
        assert self.code == "OK", self.visible
        assert self.response is not None
        return self.response.output

    @property
    def details(self) -> Mapping[str, Any]:
        """The details of the error."""
        if self.error is not None:
            return self.error.details
        assert self.response is not None
        assert self.response.error is not None
        return self.response.error.details

    @property
    def visible(self) -> str:
        """Everything that a caller is shown."""
        if self.error is not None:
            return f"{self.error} {self.error.details}"
        assert self.response is not None
        return self.response.to_json()


@dataclass
class Arena:
    """One runtime class, and a place for hostile functions."""

    runtime_class: str
    engine: RecordingEngine
    settings: Settings
    directory: Path
    _sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    _observed: dict[str, dict[str, Any]] = field(default_factory=dict)
    _count: int = 0

    def attack(
        self,
        code: str | Mapping[str, str | bytes],
        input: Mapping[str, Any] | None = None,
        *,
        manifest: str = "timeout: 30s\n",
        settings: Mapping[str, Any] | None = None,
        host_paths_allowed: bool = False,
        **options: Any,
    ) -> Result:
        """Run a function of these files (a text is `index.py`) once."""
        path = self.write(code, manifest=manifest)
        function, problems = function_from_path(path)
        assert function is not None, [str(problem) for problem in problems]
        return self.run(
            function, input, settings=settings, host_paths_allowed=host_paths_allowed, **options
        )

    def observe(self, code: str) -> dict[str, Any]:
        """What this probe saw from inside: one container serves many tests."""
        if code not in self._observed:
            # What it tries to change may be named after a path of the host; that is another test's.
            self._observed[code] = self.attack(code, host_paths_allowed=True).output
        return self._observed[code] | {"runtime_class": self.runtime_class}

    def write(self, code: str | Mapping[str, str | bytes], *, manifest: str = "") -> Path:
        """A directory with these files."""
        files = {"index.py": code} if isinstance(code, str) else dict(code)
        self._count += 1
        path = self.directory / f"attack-{self._count}"
        for name, content in {"function.yaml": manifest, **files}.items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            if target.suffix == "":
                target.chmod(0o755)
        return path

    def run(
        self,
        function: Any,
        input: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        host_paths_allowed: bool = False,
        **options: Any,
    ) -> Result:
        """Run a function once, and hold what is true of every invocation."""
        sandbox = self.sandbox(settings)
        function = replace(function)  # another reading of its files: they are deployed as they are
        limit = options.get("timeout") or function.manifest.timeout or 30.0
        began = time.monotonic()
        response, error = None, None
        try:
            response = sandbox.invoke(function, input, **options)
        except SandboxError as raised:
            error = raised
        result = Result(response=response, error=error, seconds=time.monotonic() - began)
        assert result.seconds < limit + GRACE, result
        assert (response is None) != (error is None)
        if response is not None:
            assert isinstance(response, FunctionResponse)
            assert response.success == (response.error is None)
            json.loads(response.to_json())
        if not host_paths_allowed:
            for path in (*HOST_PATHS, str(self.settings.store)):
                assert path not in result.visible
        return result

    def sandbox(self, settings: Mapping[str, Any] | None = None) -> Sandbox:
        """The sandbox with these settings on top of the usual ones."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self._sandboxes:
            base = self.settings.model_dump(exclude_unset=True)
            chosen = Settings.model_validate(merge(base, settings or {}))
            empty = self.directory / "empty"
            empty.mkdir(exist_ok=True)
            self._sandboxes[key] = Sandbox(empty, settings=chosen, engine=self.engine)  # type: ignore[arg-type]
        return self._sandboxes[key]

    def close(self) -> None:
        for sandbox in self._sandboxes.values():
            sandbox.close()


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that means no harm."""
    path = tmp_path_factory.mktemp("honest") / "honest.py"
    path.write_text(HONEST)
    function, _ = function_from_path(path)
    return function


@pytest.fixture(scope="session")
def arenas(
    engine: DockerEngine, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Arena]]:
    """An arena for each runtime class; a class that the engine lacks is a failure, no skip."""
    assert set(RUNTIME_CLASSES) <= set(engine.info().runtime_classes), "see `make engine`"
    made = {
        name: Arena(
            runtime_class=name,
            engine=RecordingEngine(engine),
            # Booted when asked, so that each container belongs to one case, and ends with it.
            settings=Settings.model_validate(
                {
                    "store": store,
                    "engine": {"runtime_class": name},
                    "pool": {"enabled": False},
                }
            ),
            directory=tmp_path_factory.mktemp(name),
        )
        for name in RUNTIME_CLASSES
    }
    yield made
    for arena in made.values():
        arena.close()


@pytest.fixture(params=RUNTIME_CLASSES)
def arena(request: pytest.FixtureRequest, arenas: dict[str, Arena], honest: Any) -> Iterator[Arena]:
    """Each runtime class in turn."""
    chosen = arenas[request.param]
    with aftermath(chosen, honest):
        yield chosen


@pytest.fixture
def crun(arenas: dict[str, Arena], honest: Any) -> Iterator[Arena]:
    """One runtime class, where the outcome does not depend on it."""
    with aftermath(arenas["crun"], honest):
        yield arenas["crun"]


@contextlib.contextmanager
def aftermath(arena: Arena, honest: Any) -> Iterator[None]:
    """After a case: nothing is left on the host, and an honest invocation succeeds."""
    arena.engine.created.clear()
    arena.engine.change = lambda spec: spec
    yield
    if not arena.engine.created:
        return
    arena.engine.change = lambda spec: spec
    result = arena.run(honest, {"n": 7})
    assert result.output == {"echo": {"n": 7}, "answer": 42}
    wait_until(lambda: not remains(arena), message=lambda: remains(arena))


def remains(arena: Arena) -> list[str]:
    """What is left of the containers that a case made, as the host sees it."""
    found = []
    existing = {
        line
        for line in docker("ps", "--all", "--quiet", "--no-trunc").splitlines()
        if line in arena.engine.created
    }
    mounts = Path("/proc/self/mountinfo").read_text()
    for container in arena.engine.created:
        if container in existing:
            found.append(f"container {container}")
        if container in mounts:
            found.append(f"mount of {container}")
        places = (
            *Path("/sys/fs/cgroup").glob(f"*/docker/{container}"),
            *Path("/sys/fs/cgroup").glob(f"docker/{container}"),
            *Path("/sys/fs/cgroup").glob(f"*/docker-{container}.scope"),
            *Path("/run/docker/containerd/daemon").glob(f"*/moby/{container}"),
            Path("/var/lib/docker/containers", container),
            *Path("/run").glob(f"runsc/*/{container}*"),
        )
        found += [str(place) for place in places if place.exists()]
    assert arena.settings.store is not None
    found += map(str, (arena.settings.store / "temporary").iterdir())
    return found


def docker(*arguments: str, input: str | None = None, check: bool = True) -> str:
    """What the engine's own command line says."""
    return subprocess.run(
        ["docker", *arguments],
        input=input, check=check, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip


def control(image: str, *options: str, command: tuple[str, ...], input: str = "") -> str:
    """Stdout of a plain container of one of the project's images: a probe's control."""
    finished = subprocess.run(
        ["docker", "run", "--rm", "--interactive", *options, reference(image), *command],
        input=input, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def python_control(code: str, *options: str) -> dict[str, Any]:
    """What the handler in `code` returns in a plain container, with these options of docker run."""
    script = (
        code
        + "\nimport json, types\n"
        + "print(json.dumps(handler(types.SimpleNamespace(input={}, env={}))))\n"
    )
    out = control("python", *options, command=("python3", "-c", script))
    seen = json.loads(out.splitlines()[-1])
    assert isinstance(seen, dict)
    return seen


# Defences off: root, no seccomp, /proc and /sys unmasked, and what a container's root needs to do
# harm. Not --privileged, which asks for capabilities that a virtual machine may not have.
UNDEFENDED = (
    "--user=0:0", "--network=none",
    "--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined",
    *(
        f"--cap-add={name}"
        for name in (
            "DAC_READ_SEARCH", "MKNOD", "NET_ADMIN", "NET_RAW", "SYSLOG",
            "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_PACCT", "SYS_PTRACE",
            "SYS_RAWIO", "SYS_TIME", "SYS_TTY_CONFIG",
        )
    ),
)  # fmt: skip


def host_status(pid: int) -> dict[str, str]:
    """`/proc/PID/status` of a process of the host."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def cgroup_directory(pid: int, controller: str) -> Path:
    """Where the host keeps a process's cgroup, in either version."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path("/sys/fs/cgroup", controller, path.lstrip("/"))
        if controllers == "":
            unified = Path("/sys/fs/cgroup", path.lstrip("/"))
    return unified


def inspect(container: str) -> dict[str, Any]:
    """What the engine says of a container."""
    (state,) = json.loads(docker("inspect", container))
    assert isinstance(state, dict)
    return state


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip
