"""A function made ready to run: its bundle (or its build's), its image, its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox import images
from sandbox.errors import RuntimeNotAvailableError
from sandbox.policy import Policy, choose_runtime_class, effective_policy
from sandbox.runtimes import RUNTIMES

if TYPE_CHECKING:
    from sandbox.builds.builder import Builder
    from sandbox.bundle import Bundle, BundleStore
    from sandbox.engine.base import Engine, Image, RuntimeClass
    from sandbox.function import Function
    from sandbox.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One version of a function, ready to run. `image` is the engine's id of the image."""

    function: Function
    bundle: Bundle
    image: str
    policy: Policy
    runtime_class: RuntimeClass


class Deployer:
    """Makes deployments: snapshots and builds what changed, looks up the rest."""

    def __init__(
        self, engine: Engine, settings: Settings, *, store: BundleStore, builder: Builder
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._store = store
        self._builder = builder

    def deploy(self, function: Function) -> Deployment:
        """The function as it is on disk now.

        Raises:
            PolicyRefusedError: the operator's settings do not allow it.
            RuntimeNotAvailableError: an image is missing or out of date.
            InvalidManifestError: its files cannot be made a bundle.
            BuildFailedError: its build failed; the executor answers with BUILD_FAILED.
        """
        policy = effective_policy(function, self._settings)
        runtime_class = choose_runtime_class(
            self._settings.engine.runtime_class, self._engine.info().runtime_classes
        )
        image = self._image(RUNTIMES[function.runtime].image, function)
        limits = self._settings.limits
        source = self._store.snapshot(
            function.source,
            single_file=function.single_file,
            max_bytes=limits.bundle,
            max_files=limits.bundle_files,
        )
        function, bundle = self._builder.build(function, source, runtime_class=runtime_class)
        return Deployment(
            function=function,
            bundle=bundle,
            image=image.id,
            policy=policy,
            runtime_class=runtime_class,
        )

    def _image(self, name: str, function: Function) -> Image:
        """The image, by id: a tag that is moved later does not change what was looked up."""
        override = self._settings.images.override.get(function.runtime)
        if override is not None:
            image = self._engine.image(override)
            if image is None:
                raise RuntimeNotAvailableError(
                    f"the engine has no image {override}, which the settings name for the "
                    f"runtime {function.runtime}",
                    hint="pull or build it, or remove it from `images.override`",
                )
            return image
        return images.require(self._engine, name)
