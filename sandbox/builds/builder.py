"""Makes the bundle that a function runs from: its files, dependencies and build output.

    source ──────────────────────────┐
    source ─▶ (install) ─────────────┼─▶ bundle
    source ─▶ (install for the build) ─▶ (build) ─┘

Every arrow is a container. Its result is kept under a digest of everything that decides it. So
functions with the same inputs share it, and without changes no container starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.builds.build_command import STEP, step_env, step_image, step_registries
from sandbox.builds.build_container import BuildContainers, Job
from sandbox.builds.build_network import ASKED, BuildNetwork
from sandbox.builds.installers import ALYX_DIR, INSTALLER_INFO, wrapped
from sandbox.builds.source import BundleSource
from sandbox.engine.base import Mount
from sandbox.errors import BuildFailedError, InvalidManifestError
from sandbox.functions.dependencies import Request, find
from sandbox.gateway.allocation import Attachment
from sandbox.images import catalog
from sandbox.policy.limits import choose_runtime_class
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.engine.base import Engine, RuntimeClass
    from sandbox.engine.delivery import Delivery
    from sandbox.functions.function import Function
    from sandbox.store.bundles import Bundle, BundleStore
    from sandbox.store.owners import Owner

# The file that the compile command of the `go` image makes.
COMPILED: Final = "function"
_COMPILE: Final = '/opt/alyx/compile "$@" >&2 && exec tar -cf - -C /out .'
_HOME: Final = {"HOME": "/tmp/home", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108
# A failed build is not tried again for so many seconds: a hanging one would run without end.
_RETRY: Final = 30.0
_REGISTRIES: Final = ("/opt/alyx/registries",)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A function and its bundle. `env` tells the runtime where the dependencies are."""

    function: Function
    bundle: Bundle
    env: Mapping[str, str] = field(default_factory=dict)


class Builder:
    """Builds functions in containers, once for each version. Safe to use from many threads."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        store: BundleStore,
        owner: Owner,
        delivery: Delivery,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._store = store
        self._network = BuildNetwork(
            settings, directory=owner.gateways / "builds", default_hosts=self._default_hosts
        )
        self._containers = BuildContainers(engine, settings, delivery=delivery, owner=owner)
        # By key: failed builds and their times, on the clock of `time.monotonic`.
        self._failures: dict[str, tuple[float, BuildFailedError]] = {}

    def build(self, function: Function, source: Bundle, *, runtime_class: RuntimeClass) -> Built:
        """Build a function. Without anything to do, it gives the function and its source back.

        Raises:
            BuildFailedError: a build or an installation failed; holds the end of its log.
            InvalidManifestError: its dependencies cannot be installed.
            RuntimeNotAvailableError: the image to build in is missing.
        """
        return _Build(self, function, source, runtime_class).run()

    def stop(self) -> None:
        """Stop running builds, and build no more."""
        self._containers.stop()

    def close(self) -> None:
        """Close the gateways. May be called twice."""
        self._network.close()

    def image(self, name: str) -> str:
        return catalog.require(self._engine, name).id

    def produce(self, key: str, job: Job) -> Bundle:
        """The bundle that `job` gives on its stdout, as an archive; kept under `key`."""
        # Before the key is locked, because finding them may need another build.
        places = () if job.offline else self._network.places(job.tools)

        def build_into(output: Path) -> None:
            at, failure = self._failures.get(key, (0.0, None))
            if failure is not None and time.monotonic() < at + _RETRY:
                raise BuildFailedError(failure.message, log=failure.log)
            try:
                build_now(output)
            except BuildFailedError as error:
                self._failures[key] = time.monotonic(), error
                raise

        def build_now(output: Path) -> None:
            from sandbox.builds.unpack import Archive  # noqa: PLC0415 - tarfile, where needed

            archive = Archive(output.parent / "archive", cap=self._settings.build.output)
            way_out = contextlib.nullcontext(Attachment())
            with (
                contextlib.closing(archive),
                way_out if job.offline else self._network.open(places) as network,
            ):
                env = {**_HOME, **job.env, **self._network.variables(job.tools)}
                self._containers.run(
                    dataclasses.replace(job, env=env),
                    take=archive.take,
                    network=network,
                    hosts=frozenset(place.host for place in places),
                )
                archive.unpack(output)

        try:
            return self._store.produce(key, build_into, adopt=True)
        except InvalidManifestError as error:
            problems = "\n".join(error.details.get("problems", ()))
            raise BuildFailedError(f"what it left cannot be used: {problems}") from None

    def cached(self, key: str) -> Bundle | None:
        return self._store.cached(key)

    def merge(self, parts: Sequence[Bundle], *, without: Sequence[str] = ()) -> Bundle:
        return self._store.merge(parts, without=without)

    @contextlib.contextmanager
    def laid_out(self, files: Mapping[str, bytes]) -> Iterator[Path]:
        """A temporary directory with `files`."""
        with self._store.scratch() as directory:
            for name, content in files.items():
                (directory / name).write_bytes(content)
                (directory / name).chmod(0o644)
            directory.chmod(0o755)
            yield directory

    def registries(self) -> Mapping[str, str]:
        """The operator's registries, which are a part of an installation's key."""
        return dict(self._settings.build.registries.items())

    def _default_hosts(self, tool: str) -> Sequence[str]:
        """`host:port` of a tool's default registries. Each image is asked once."""
        image = self.image(ASKED[tool])
        key = cache_key("registries", image)

        def ask(output: Path) -> None:
            answer = bytearray()
            self._ask(image, answer)
            (output / "hosts").write_bytes(bytes(answer))

        hosts = (self._store.produce(key, ask).path / "hosts").read_text()
        return hosts.split()

    def _ask(self, image: str, answer: bytearray) -> None:
        job = Job(
            name="registries",
            command=_REGISTRIES,
            image=image,
            # The image is ours and runs no code of a function, so any runtime class will do.
            runtime_class=choose_runtime_class("auto", self._engine.info().runtime_classes),
            env=_HOME,
            offline=True,
        )
        self._containers.run(job, take=answer.extend)


class _Build:
    """The build of one function."""

    def __init__(
        self, builder: Builder, function: Function, source: Bundle, runtime_class: RuntimeClass
    ) -> None:
        self._builder = builder
        self._function = function
        self._source = source
        self._runtime_class = runtime_class
        self._files = BundleSource(source.path)

    def run(self) -> Built:
        function = self._function
        if function.runtime is Runtime.GO:
            return self._compile()
        request = find(function, self._files)
        parts = []
        without: tuple[str, ...] = ()
        if function.manifest.build is not None:
            parts.append(self._step())
            without = (function.manifest.build.output,)
        if request is not None:
            if self._files.has_directory(ALYX_DIR):
                raise BuildFailedError(
                    f"its directory has a folder {ALYX_DIR}, where its dependencies belong"
                )
            parts.append(self._install(request))
        if not parts:
            return Built(function=function, bundle=self._source)
        bundle = self._builder.merge((self._source, *parts), without=without)
        if not (bundle.path / function.entrypoint).is_file():
            raise BuildFailedError(f"the build left no {function.entrypoint} in its output")
        env = INSTALLER_INFO[request.installer].runtime_env if request is not None else {}
        return Built(function=function, bundle=bundle, env=env)

    def _install(self, request: Request) -> Bundle:
        info = INSTALLER_INFO[request.installer]
        image = self._builder.image(info.image)
        script = wrapped(info.script)
        key = cache_key(
            "install", image, script, request.installer, request.packages,
            {name: hashlib.sha256(data).hexdigest() for name, data in request.files.items()},
            self._source.digest if request.whole else "", request.locked, request.development,
            self._builder.registries(),
        )  # fmt: skip
        cached = self._builder.cached(key)
        if cached is not None:
            return cached
        env = {
            **info.env,
            "LOCKED": "true" if request.locked else "false",
            # Bun and npm both take this form.
            "OMIT": "" if request.development else "--omit=dev",
        }
        with self._builder.laid_out(request.files) as files:
            if request.whole:
                mounts: tuple[Mount, ...] = (
                    Mount(source=self._source.path, target="/src"),
                    Mount(source=files, target="/request"),
                )
            else:
                mounts = (Mount(source=files, target="/src"),)
            return self._produce(
                key,
                Job(
                    command=("sh", "-c", script, "install", *request.packages),
                    image=image,
                    mounts=mounts,
                    env=env,
                    tools=info.registries,
                    name=self._function.name,
                    runtime_class=self._runtime_class,
                ),
                what="its dependencies could not be installed",
            )

    def _step(self) -> Bundle:
        """The `output` of the manifest's build."""
        build = self._function.manifest.build
        assert build is not None  # noqa: S101 - asked before
        name = step_image(self._function.runtime, build.command)
        image = self._builder.image(name)
        request = find(self._function, self._files, development=True)
        parts = [self._source] if request is None else [self._source, self._install(request)]
        source = self._builder.merge(parts) if len(parts) > 1 else self._source
        command = (build.command, *build.args)
        script = wrapped(STEP)
        key = cache_key(
            "build", image, script, source.digest, command, build.output,
            self._builder.registries(),
        )  # fmt: skip
        return self._produce(
            key,
            Job(
                command=("sh", "-c", script, "build", *command),
                image=image,
                mounts=(Mount(source=source.path, target="/src"),),
                env={
                    **step_env(name),
                    **(INSTALLER_INFO[request.installer].build_env if request else {}),
                    "BUILD_OUTPUT": build.output,
                },
                tools=step_registries(name),
                name=self._function.name,
                runtime_class=self._runtime_class,
            ),
            what=f"the build `{' '.join(command)}` failed",
        )

    def _produce(self, key: str, job: Job, *, what: str) -> Bundle:
        try:
            return self._builder.produce(key, job)
        except BuildFailedError as failure:
            raise BuildFailedError(f"{what}: {failure.message}", log=failure.log) from None

    def _compile(self) -> Built:
        function = self._function
        image = self._builder.image("go")
        key = cache_key("go", self._source.digest, image, function.entrypoint, function.interface)
        bundle = self._builder.produce(
            key,
            Job(
                command=("sh", "-c", _COMPILE, "compile", function.entrypoint, function.interface),
                image=image,
                mounts=(Mount(source=self._source.path, target="/src"),),
                scratch=("/out",),
                offline=True,
                name=self._function.name,
                runtime_class=self._runtime_class,
            ),
        )
        return Built(function=dataclasses.replace(function, entrypoint=COMPILED), bundle=bundle)


def cache_key(*parts: object) -> str:
    """A digest of everything that decides a build's result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
