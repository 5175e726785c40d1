"""`Deployer`: makes a function ready to run, with its bundle, its image and its limits."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from sandbox.deploy.validation import bundle_caps
from sandbox.errors import BuildFailedError, RuntimeNotAvailableError
from sandbox.images import catalog
from sandbox.policy.limits import Policy, choose_runtime_class, effective_policy
from sandbox.policy.network import refuse_network
from sandbox.runtimes import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sandbox.builds.builder import Builder
    from sandbox.config.settings import Settings
    from sandbox.engine.base import Engine, Image, RuntimeClass
    from sandbox.engine.delivery import Delivery
    from sandbox.functions.function import Function
    from sandbox.store.bundles import Bundle, BundleStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One version of a function, ready to run. `image` is the engine's id of the image."""

    function: Function
    bundle: Bundle
    image: str
    policy: Policy
    runtime_class: RuntimeClass
    # Tells its runtime where the installed dependencies are.
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    # The digest of its files before its build.
    source_digest: str = field(compare=False)
    # Why it cannot be booted before its request, if an earlier process has found that out.
    cold_only: str = field(default="", compare=False)

    @property
    def reuse(self) -> int:
        """How many requests one container may serve; a stdio script ends with its first."""
        return self.policy.reuse if self.function.interface == "handler" else 1

    @cached_property
    def key(self) -> str:
        """Containers of one deployment may serve another that has the same key."""
        function = self.function
        parts = (
            function.name, function.runtime, function.entrypoint, function.interface,
            self.bundle.digest, self.image, self.policy, self.runtime_class,
            sorted(self.env.items()),
        )  # fmt: skip
        return sha256(repr(parts).encode()).hexdigest()[:32]


class Deployer:
    """Makes deployments. Only snapshots and builds what has changed."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        store: BundleStore,
        builder: Builder,
        delivery: Delivery,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._store = store
        self._builder = builder
        self._delivery = delivery
        # Whether the old version of a changed function serves until `roll_out`.
        self.rolled = False
        self._lock = threading.Lock()
        # By name: the last deployment, and the function that it was made of.
        self._deployed: dict[str, tuple[Function, Deployment]] = {}

    def deploy(self, function: Function) -> Deployment:
        """The function as it was on disk when this `Function` was first deployed.

        Reading the directory again makes a new `Function`, which is deployed anew. If it cannot be
        built, the version before it goes on serving. If changes are `rolled` out, that version
        serves until `roll_out`.

        Raises: see `deploy_anew`.
        """
        deployment = self.in_force(function)
        if deployment is not None:
            return deployment
        try:
            deployment = self.deploy_anew(function)
        except BuildFailedError as failure:
            _, deployment = self._deployed.get(function.name, (None, None))
            if deployment is None:
                raise
            log.warning("%s: %s; the version before it goes on serving", function.name, failure)
        self.roll_out(function, deployment)
        return deployment

    def in_force(self, function: Function) -> Deployment | None:
        """The deployment that `deploy` would return at once; None if it would have to build."""
        with self._lock:
            known, deployment = self._deployed.get(function.name, (None, None))
        return deployment if known is function or self.rolled else None

    def roll_out(self, function: Function, deployment: Deployment) -> None:
        """From now on, serve `function` with this deployment."""
        with self._lock:
            self._deployed[function.name] = function, deployment

    def retain(self, names: Collection[str]) -> None:
        with self._lock:
            for name in self._deployed.keys() - set(names):
                del self._deployed[name]

    def source_digest(self, function: Function) -> str:
        """The digest of the function's files as they are now. Raises InvalidManifestError."""
        return self._store.digest(
            function.source, single_file=function.single_file, caps=bundle_caps(self._settings)
        )

    def deploy_anew(self, function: Function, *, source_digest: str | None = None) -> Deployment:
        """A deployment of the function as it is on disk now.

        With `source_digest`, which the method of that name has just returned, its files are not
        hashed again.

        Raises:
            PolicyRefusedError: the operator's settings do not allow it.
            RuntimeNotAvailableError: an image is missing or out of date.
            InvalidManifestError: its files cannot be made a bundle.
            BuildFailedError: its build failed.
        """
        policy = effective_policy(function, self._settings)
        if not self._delivery.carries_sockets:
            refuse_network(function, policy.network)
        runtime_class = choose_runtime_class(
            policy.runtime_class, self._engine.info().runtime_classes
        )
        image = self._image(RUNTIMES[function.runtime].image, function)
        source = self._store.snapshot(
            function.source,
            single_file=function.single_file,
            caps=bundle_caps(self._settings),
            digest=source_digest,
        )
        built = self._builder.build(function, source, runtime_class=runtime_class)
        return Deployment(
            function=built.function,
            bundle=built.bundle,
            env=built.env,
            image=image.id,
            policy=policy,
            runtime_class=runtime_class,
            source_digest=source.digest,
            cold_only=self._store.cold_functions.reason(source.digest) or "",
        )

    def _image(self, name: str, function: Function) -> Image:
        """The image, by id, so that moving its tag later changes nothing."""
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
        return catalog.require(self._engine, name)
