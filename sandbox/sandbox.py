"""`Sandbox`: the library's one object."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sandbox.builds.builder import Builder
from sandbox.call import Call
from sandbox.config.settings import Settings
from sandbox.containers.launcher import Launcher, check_boot
from sandbox.containers.reaper import Reaper, reap
from sandbox.deploy.deployer import Deployer
from sandbox.engine.delivery import delivery_of
from sandbox.engine.docker.engine import DockerEngine
from sandbox.engine.steps import run_steps
from sandbox.functions.function import Function
from sandbox.functions.registry import Registry
from sandbox.functions.secrets import load_secrets
from sandbox.gateway.gateway import Gateways
from sandbox.invocation.contexts import Contexts
from sandbox.invocation.executor import Executor
from sandbox.models import AuthContext
from sandbox.pool.pool import Pool
from sandbox.store.bundles import BundleStore
from sandbox.store.owners import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sandbox.cancellation import Cancellation
    from sandbox.deploy.hot_reload import HotReload
    from sandbox.deploy.reload_events import WatchEvent
    from sandbox.documents.problems import Problem
    from sandbox.engine.base import Engine
    from sandbox.engine.steps import Steps
    from sandbox.functions.registry import Registrar
    from sandbox.invocation.contexts import TokenIssuer
    from sandbox.models import FileUpload, FunctionResponse, LogEntry


class Sandbox:
    """Runs the functions of one directory, each invocation in a container of its own.

        with Sandbox("functions") as sandbox:
            response = sandbox.invoke("hello", {"name": "World"})

    A context manager: leaving it waits until every container is removed. Safe to use from many
    threads. `engine` replaces the Docker engine that the settings name; its owner closes it.
    Without `warm`, no container boots before a request needs it. `tokens`, such as
    `sandbox.tokens.Tokens`, makes each invocation's `context.internal_token`, which is empty
    without it. `registrar` is told which events the manifests ask for.

    Raises:
        InvalidSettingsError: the settings or the secrets file cannot be used.
    """

    def __init__(  # noqa: PLR0913 - public, and independent of each other
        self,
        functions: str | Path = "functions",
        *,
        settings: Settings | None = None,
        engine: Engine | None = None,
        registrar: Registrar | None = None,
        warm: bool = True,
        tokens: TokenIssuer | None = None,
    ) -> None:
        self._closed = True  # until everything below has worked
        self.settings = settings or Settings()
        self._secrets = load_secrets(self.settings.secrets_file)
        self.directory = Path(functions)
        self._registry = Registry(self.directory, registrar=registrar)
        self._owns_engine = engine is None
        self.engine: Engine = engine or DockerEngine(self.settings.engine)
        self._store = self.settings.store_directory
        bundles = self._bundles = BundleStore(self._store)
        self._owner = Owner(self._store)
        self._delivery = delivery_of(
            self.engine, self.settings.engine, bundles=bundles, store=self._store, owner=self._owner
        )
        self._builder = Builder(
            self.engine, self.settings, store=bundles, owner=self._owner, delivery=self._delivery
        )
        self._deployer = Deployer(
            self.engine,
            self.settings,
            store=bundles,
            builder=self._builder,
            delivery=self._delivery,
        )
        self._gateways = Gateways(self.settings.network, directory=self._owner.gateways)
        self._launcher = Launcher(
            self.engine,
            self.settings,
            owner=self._owner,
            gateways=self._gateways,
            delivery=self._delivery,
        )
        self._pool = Pool(
            self._launcher, self.settings, ahead=warm, cold_functions=bundles.cold_functions
        )
        self._executor = Executor(
            self.settings,
            deployer=self._deployer,
            pool=self._pool,
            launcher=self._launcher,
            contexts=Contexts(self.settings, secrets=self._secrets, tokens=tokens),
        )
        self._reaper = Reaper(self._sweep)
        # A process that serves for long; another one begins behind its first response.
        if warm:
            self._reaper.start()
        self._closed = False

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions by name, as the last `reload` has found them."""
        return self._registry.functions

    @property
    def secrets(self) -> Mapping[str, str]:
        """The operator's secrets by name, as they were when this object was made."""
        return self._secrets

    @property
    def problems(self) -> Sequence[Problem]:
        """What is wrong in the functions' directory. Functions without problems run."""
        return self._registry.problems

    def function(self, name: str) -> Function:
        """The function of that name.

        Raises:
            FunctionNotFoundError, InvalidManifestError: see `invoke`.
        """
        return self._registry.get(name)

    def reload(self) -> None:
        """Read the functions' directory again. Running invocations are not disturbed.

        A function that has changed is deployed anew by its next invocation. If `prepare` has ever
        been used, the old version serves until `prepare` replaces it.
        """
        self._registry.reload()
        self._deployer.retain(self.functions)
        self._pool.retain(self.functions)

    def watch(self, *, polling: bool = False) -> Iterator[WatchEvent]:
        """Reload and `prepare` functions when their files change, while the caller iterates.

        Yields at once a `ReloadEvent` in which every function is new, then one for each reload
        that changed something. A version that cannot be built or booted does not replace a good
        one; the event's `problems` say why. Where the kernel reports no changes of files, a
        `PollingEvent` says so, and files are polled; with `polling` they are from the start.
        """
        from sandbox.deploy.hot_reload import Watcher  # noqa: PLC0415 - brings watchfiles

        return Watcher(self, stop=threading.Event(), polling=polling).events()

    def hot_reload(
        self, on_event: Callable[[WatchEvent], object] = lambda _: None, *, polling: bool = False
    ) -> HotReload:
        """The same as `watch` in a thread, for as long as a `with` block lasts.

            with Sandbox("functions") as sandbox, sandbox.hot_reload(on_event=print):
                ...

        `on_event` is called in that thread. Leaving the block waits for a reload under way.
        """
        from sandbox.deploy.hot_reload import HotReload  # noqa: PLC0415 - brings watchfiles

        return HotReload(self, on_event, polling=polling)

    def source_digest(self, function: Function) -> str:
        """The digest of a function's files as they are now.

        Raises:
            InvalidManifestError: its files cannot be deployed; `details.problems` says why.
        """
        return self._deployer.source_digest(function)

    def prepare(self, name: str, *, source_digest: str | None = None) -> None:
        """Build and boot a function as it is now, and only if that works put it into service.

        Where `source_digest` is what the method of that name has just returned, its files are not
        hashed again.

        Raises:
            FunctionNotFoundError, InvalidManifestError: see `invoke`.
            BuildFailedError: it cannot be built; the version before it goes on serving.
            BootFailedError: it does not boot; the version before it goes on serving.
            SandboxError: the platform could not do it.
        """
        self._deployer.rolled = True
        function = self._registry.get(name)
        deployment = self._deployer.deploy_anew(function, source_digest=source_digest)
        instance = self._launcher.launch(deployment)
        try:
            check_boot(instance)
        except BaseException:
            self._launcher.discard(instance)
            raise
        self._deployer.roll_out(function, deployment)
        self._pool.add(instance)

    def warm(self, name: str) -> None:
        """Build a function if necessary, and keep as many containers booted as its manifest asks.

        Raises: see `build`.
        """
        self._pool.keep_warm(self._deployer.deploy(self._registry.get(name)))

    def build(self, name: str) -> str:
        """Build a function as it is now, install its dependencies, and return its version.

        Only its build runs. The version in service goes on serving.

        Raises:
            FunctionNotFoundError, InvalidManifestError: see `invoke`.
            BuildFailedError: it cannot be built.
            SandboxError: the platform could not do it.
        """
        return self._deployer.deploy_anew(self._registry.get(name)).bundle.digest

    def stop_building(self) -> None:
        """Stop all builds, and build no more. Callers that wait for a build get BUILD_FAILED."""
        self._builder.stop()

    def pool_states(self) -> Mapping[str, Mapping[str, object]]:
        """By function, how many containers are ready, booting and busy, and how many calls wait."""
        return self._pool.states()

    def invoke(  # noqa: PLR0913 - public; behind it, a `Call` carries them
        self,
        name: str | Function,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the contract's word
        *,
        auth: AuthContext | Mapping[str, Any] | None = None,
        files: Sequence[FileUpload] = (),
        timeout: float | None = None,
        request_id: str | None = None,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> FunctionResponse:
        """Run a function once and return its response, successful or not.

        In place of a name, it takes a function that
        `sandbox.functions.discovery.function_from_path` has made of a file. `files` are added to
        the input as `_files`. `timeout`, in seconds, replaces the function's own, up to the
        operator's ceiling. `on_log` is called with each log entry as it comes; `cancellation` ends
        it from another thread.

        Raises:
            FunctionNotFoundError: there is no such function; near names are in the message.
            InvalidManifestError: its manifest has problems.
            InvalidRequestError: the input is not a JSON object, or too large.
            PolicyRefusedError: the operator's settings do not allow it.
            RuntimeNotAvailableError: an image is missing; its hint says how to build it.
            OverloadedError: no container came free within the deadline.
            EngineUnavailableError: the container engine cannot be reached.
        """
        function = name if isinstance(name, Function) else self.function(name)
        call = Call(
            function=function.name,
            input={} if input is None else input,
            auth=auth.model_dump() if isinstance(auth, AuthContext) else auth,
            files=[file.model_dump() for file in files],
            timeout=timeout,
            request_id=request_id,
        )
        steps = self.steps(call, function=function, on_log=on_log, cancellation=cancellation)
        return run_steps(steps)

    def steps(
        self,
        call: Call,
        *,
        function: Function | None = None,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Steps[FunctionResponse]:
        """An invocation for `run_steps`, or for an event loop; see `sandbox.engine.steps`.

        `function` replaces the directory's function of that name; the rest is as for `invoke`.

        Raises:
            FunctionNotFoundError, InvalidManifestError: at once; the rest, when it is run.
        """
        function = function or self.function(call.function)
        return self._steps(
            self._executor.steps(function, call, on_log=on_log, cancellation=cancellation)
        )

    def _steps(self, steps: Steps[FunctionResponse]) -> Steps[FunctionResponse]:
        response = yield from steps
        self._reaper.start()
        return response

    def _sweep(self) -> None:
        """Remove what other processes have left behind, and bundles out of use."""
        reap(self.engine, self._store)
        self._bundles.prune()
        self._delivery.prune()

    def close(self) -> None:
        """Wait until every container is removed, then close the engine."""
        if self._closed:
            return
        self._closed = True
        self._pool.close()
        self._launcher.close()
        self._builder.close()
        self._gateways.close()
        self._reaper.close()
        self._owner.close()
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn("a Sandbox was not closed", ResourceWarning, stacklevel=2, source=self)
