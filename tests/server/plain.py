"""The server's application over functions that are plain Python; all but the containers is real."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from sandbox import FunctionError, FunctionResponse, Settings
from sandbox.executions.store import open_store
from sandbox.registry import Registry
from sandbox.server.app import create_app
from sandbox.server.authentication import build_authenticator
from sandbox.server.dispatch import Dispatcher
from sandbox.server.idempotency import IdempotencyStore
from sandbox.server.limits import Limiter
from sandbox.server.metrics import Metrics
from sandbox.server.registrar import EventRegistrar
from sandbox.server.schedules import Schedules
from sandbox.server.state import Readiness
from sandbox.server.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp


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

    def invoke(self, name: str, input: Any, *, request_id: str, **options: Any) -> FunctionResponse:
        self.function(name)
        self.invoked.append((name, input, options))
        answer = self.code(name, input)
        if isinstance(answer, FunctionError):
            return FunctionResponse(
                request_id=request_id, success=False, error=answer, answered=answer.code == "SAD"
            )
        return FunctionResponse(request_id=request_id, success=True, output=answer, answered=True)


def echo(name: str, input: Any) -> Any:
    return {"function": name, "input": input}


@contextlib.contextmanager
def listening(app: ASGIApp) -> Iterator[httpx.Client]:
    """A client of the application, which listens at a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
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


@contextlib.contextmanager
def plain_server(
    tmp_path: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    code: Callable[[str, Any], Any] = echo,
    **server: Any,
) -> Iterator[tuple[httpx.Client, PlainSandbox, Dispatcher]]:
    settings = Settings.model_validate({"store": tmp_path / "store", "server": server})
    functions = tmp_path / "functions"
    functions.mkdir()
    store = open_store(settings)
    schedules = Schedules(settings.server.schedules, store.engine)
    registrar = EventRegistrar(schedules)
    sandbox = PlainSandbox(functions, registrar, secrets=secrets or {}, code=code)
    dispatcher = Dispatcher(sandbox, settings, store=store)  # type: ignore[arg-type]
    service: Any = SimpleNamespace(
        settings=settings,
        sandbox=sandbox,
        dispatcher=dispatcher,
        registrar=registrar,
        authenticator=build_authenticator(settings.server, store.engine),
        limiter=Limiter(settings.server.limits),
        idempotency=IdempotencyStore(store.engine, settings),
        invoking=Threads("invoking", 16),
        working=Threads("working", 16),
        metrics=Metrics(),
        database=store.engine,
    )
    dispatcher.start()
    try:
        with listening(create_app(lambda: service, Readiness())) as client:
            yield client, sandbox, dispatcher
    finally:
        schedules.close()
        service.authenticator.close()
        dispatcher.drain(0)
        for threads in (service.invoking, service.working):
            threads.close()
