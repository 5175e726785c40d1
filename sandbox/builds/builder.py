"""Which functions are built before they run, and the cache of what was built."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox import images
from sandbox.builds.container import Job, run_build
from sandbox.builds.dependencies import Request, find
from sandbox.builds.failure import BuildFailedError
from sandbox.builds.installers import ALYX_DIR, INSTALLER_INFO, REVISION, wrapped
from sandbox.builds.network import ASKED, BuildNetwork
from sandbox.builds.source import BundleSource
from sandbox.builds.steps import STEP, step_env, step_image, step_registries
from sandbox.engine.base import Mount
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.bundle import Bundle, BundleStore
    from sandbox.engine.base import Engine, RuntimeClass
    from sandbox.function import Function
    from sandbox.reaper import Owner
    from sandbox.settings import Settings

# What the compile command in the `go` image leaves in its output directory.
COMPILED: str = "function"


class Builder:
    """Builds functions in containers, once for each version. Safe to use from many threads."""

    def __init__(
        self, engine: Engine, settings: Settings, *, store: BundleStore, owner: Owner
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._store = store
        self._owner = owner

    def build(
        self, function: Function, source: Bundle, *, runtime_class: RuntimeClass
    ) -> tuple[Function, Bundle]:
        """What runs, and the bundle it runs from: the function itself where nothing is to build.

        Raises:
            BuildFailedError: the build failed; holds the end of its log.
            RuntimeNotAvailableError: the image to build in is missing.
        """
        if function.runtime is Runtime.GO:
            return self._compile(function, source, runtime_class=runtime_class)
        return _built_already(function, source), source

    def _compile(
        self, function: Function, source: Bundle, *, runtime_class: RuntimeClass
    ) -> tuple[Function, Bundle]:
        built = dataclasses.replace(function, entrypoint=COMPILED)
        image = images.require(self._engine, "go")
        key = _cache_key("go", source.digest, image.id, function.entrypoint, function.interface)
        cached = self._store.cached(key)
        if cached is not None:
            return built, cached

        def compile_into(output: Path) -> None:
            run_build(
                self._engine,
                self._settings,
                command=("/opt/alyx/compile", function.entrypoint, function.interface),
                image=image.id,
                source=source.path,
                output=output,
                runtime_class=runtime_class,
                labels=self._owner.labels(function.name),
            )

        return built, self._store.produce(key, compile_into)


def _built_already(function: Function, source: Bundle) -> Function:
    """The function with an entrypoint that is there: its build's output, or else its source.

    Node, Deno and Bun run TypeScript as it is, so a function that is not built yet still runs
    where its entry file can be told.
    """
    build = function.manifest.build
    if build is None or (source.path / function.entrypoint).is_file():
        return function
    if function.source_entrypoint is not None:
        return dataclasses.replace(function, entrypoint=function.source_entrypoint)
    command = " ".join((build.command, *build.args))
    raise BuildFailedError(
        f"{function.where('build')}: its build's output, {build.output}, is not there; "
        f"run `{command}` in its directory",
        log="",
    )


def _cache_key(*parts: str) -> str:
    """One digest for everything that decides what a build gives."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
