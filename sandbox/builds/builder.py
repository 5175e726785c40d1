"""Which functions are built before they run, and the cache of what was built."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from sandbox import images
from sandbox.builds.compile import run_build
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.bundle import Bundle, BundleStore
    from sandbox.discovery import Function
    from sandbox.engine.base import Engine, RuntimeClass
    from sandbox.reaper import Owner
    from sandbox.settings import Settings

# What the compile command in the `go` image leaves in its output directory.
COMPILED: str = "function"


class Builder:
    """Builds functions in containers, once for each version."""

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
        if function.runtime is not Runtime.GO:
            return function, source
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


def _cache_key(*parts: str) -> str:
    """One digest for everything that decides what a build gives."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
