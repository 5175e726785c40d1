"""The server's application over functions that are plain Python; all but the containers is real."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from sandbox import FunctionError, FunctionResponse, Settings
from sandbox.config.server_settings import ServerSettings
from sandbox.engine.steps import BLOCKING
from sandbox.executions.store import open_store
from sandbox.functions.registry import Registry
from sandbox.server.auth.api_keys import KeySpec, KeyStore
from sandbox.server.auth.authentication import build_authenticator
from sandbox.server.auth.rate_limits import Limiter
from sandbox.server.dispatch.dispatcher import Dispatcher
from sandbox.server.dispatch.idempotency import IdempotencyStore
from sandbox.server.dispatch.loop_runner import LoopRunner
from sandbox.server.dispatch.pending import Pending
from sandbox.server.dispatch.threads import Threads
from sandbox.server.events.registrar import EventRegistrar
from sandbox.server.events.schedules import Schedules
from sandbox.server.http.app import create_app
from sandbox.server.http.connection_limits import bounded_protocol
from sandbox.server.http.health import Readiness
from sandbox.server.http.operations import RESERVED
from sandbox.server.service import Service
from sandbox.server.telemetry.metrics import Metrics
from sandbox.tokens import Tokens, load_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp

    from sandbox.call import Call
    from sandbox.config.server_settings import Scope
    from sandbox.engine.steps import Steps


class PlainSandbox:
    """What the server needs of a `Sandbox`. `code` runs every function; it is called with the
    function's name and its input, and returns the output or an error.
    """

    def __init__(
        self,
        directory: Path,
        registrar: EventRegistrar,
        *,
        secrets: Mapping[str, str],
        code: Callable[[str, Any], Any],
    ) -> None:
        self.directory = directory
        self.secrets = secrets
        self.code = code
        self.invoked: list[tuple[str, Any, dict[str, Any]]] = []
        self._registry = Registry(directory, registrar=registrar)
        self.function = self._registry.get
        self.reload = self._registry.reload

    @property
    def problems(self) -> Any:
        return self._registry.problems

    def write(self, function: str, manifest: str) -> None:
        """Write a function with that manifest, and look at the directory again."""
        folder = self.directory / function
        folder.mkdir(exist_ok=True)
        (folder / "index.py").write_text("")
        (folder / "function.yaml").write_text(manifest)
        self.reload()

    @property
    def functions(self) -> Any:
        return self._registry.functions

    def pool_states(self) -> Mapping[str, Mapping[str, object]]:
        return {}

    def steps(self, call: Call, **options: Any) -> Steps[FunctionResponse]:
        return self._steps(self.function(call.function).name, call, options)

    def _steps(self, name: str, call: Call, options: dict[str, Any]) -> Steps[FunctionResponse]:
        yield BLOCKING
        options |= {"auth": call.auth, "files": call.files, "timeout": call.timeout}
        self.invoked.append((name, call.input, options))
        answer = self.run(name, call.input, **options)
        request_id = str(call.request_id)
        if isinstance(answer, FunctionResponse):
            return replace(answer, request_id=request_id)
        if isinstance(answer, FunctionError):
            return FunctionResponse(
                request_id=request_id, success=False, error=answer, answered=answer.code == "SAD"
            )
        return FunctionResponse(request_id=request_id, success=True, output=answer, answered=True)

    def run(self, name: str, input: Any, **options: Any) -> Any:
        """What the function does; for those that log, or that can be cancelled."""
        return self.code(name, input)


def echo(name: str, input: Any) -> Any:
    return {"function": name, "input": input}


@contextlib.contextmanager
def listening(
    app: ASGIApp, server: Callable[[], ServerSettings] = ServerSettings
) -> Iterator[httpx.Client]:
    """A client of the application, which listens at a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        config = uvicorn.Config(
            app,
            http=bounded_protocol(server),
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{place.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@dataclass(frozen=True)
class Served:
    """A server that listens, and its parts."""

    client: httpx.Client
    sandbox: PlainSandbox
    dispatcher: Dispatcher
    service: Any

    def key(self, *scopes: Scope, **more: Any) -> dict[str, str]:
        """Headers with a new API key."""
        keys = KeyStore(self.service.database)
        _, text = keys.create(KeySpec(name="test", scopes=scopes or ("invoke",), **more))
        return {"authorization": f"Bearer {text}"}


@contextlib.contextmanager
def plain_server(
    tmp_path: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    code: Callable[[str, Any], Any] = echo,
    **server: Any,
) -> Iterator[tuple[httpx.Client, PlainSandbox, Dispatcher]]:
    with served(tmp_path, secrets=secrets, code=code, **server) as place:
        yield place.client, place.sandbox, place.dispatcher


@contextlib.contextmanager
def served(
    tmp_path: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    code: Callable[[str, Any], Any] = echo,
    kind: type[PlainSandbox] = PlainSandbox,
    **server: Any,
) -> Iterator[Served]:
    settings = Settings.model_validate({"store": tmp_path / "store", "server": server})
    functions = tmp_path / "functions"
    functions.mkdir()
    store = open_store(settings)
    schedules = Schedules(settings.server.schedules, store.database)
    registrar = EventRegistrar(schedules, reserved=RESERVED)
    sandbox = kind(functions, registrar, secrets=secrets or {}, code=code)
    dispatcher = Dispatcher(sandbox, settings, store=store)  # type: ignore[arg-type]
    service: Any = SimpleNamespace(
        settings=settings,
        sandbox=sandbox,
        dispatcher=dispatcher,
        registrar=registrar,
        authenticator=build_authenticator(settings.server, store.database),
        limiter=Limiter(settings.server.limits),
        idempotency=IdempotencyStore(store.database, settings),
        tokens=Tokens(key=load_key(None)),
        invoking=LoopRunner("invoking", 16),
        working=Threads("working", 16),
        following=Threads("following", 16),
        metrics=Metrics(),
        pending=Pending(),
        database=store.database,
    )
    service.metrics.watch(lambda: Service.gauges(service))  # type: ignore[arg-type]
    dispatcher.start()
    try:
        app = create_app(lambda: service, Readiness())
        with listening(app, lambda: settings.server) as client:
            yield Served(client, sandbox, dispatcher, service)
    finally:
        schedules.close()
        service.authenticator.close()
        dispatcher.drain(0)
        for threads in (service.invoking, service.working, service.following):
            threads.close()
