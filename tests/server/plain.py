"""The server over functions that are plain Python; all but the containers is real."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import uvicorn
import yaml

from sandbox import Settings
from sandbox.config.server_settings import ServerSettings
from sandbox.executions.database import database_url, open_database
from sandbox.server.auth.api_keys import KeySpec, KeyStore
from sandbox.server.http.app import create_app
from sandbox.server.http.connection_limits import bounded_protocol
from sandbox.server.http.health import Readiness
from sandbox.server.http.operations import RESERVED
from sandbox.server.service import Service
from sandbox.testing import FakeEngine, FakeFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp

    from sandbox.config.server_settings import Scope
    from sandbox.server.dispatch.dispatcher import Dispatcher
    from sandbox.testing import FakeContext


class PlainFunctions:
    """A functions directory. `code` plays each function; it returns the output or an error."""

    # Those that behave in another way.
    special: ClassVar[Mapping[str, FakeFunction]] = {}

    def __init__(self, code: Callable[[FakeContext], Any]) -> None:
        self.code = code
        self.engine = FakeEngine(self.special, default=self._answer)
        # The requests that were answered.
        self.invoked: list[FakeContext] = []
        self.service: Service

    def _answer(self, ctx: FakeContext) -> Any:
        self.invoked.append(ctx)
        return self.answer(ctx)

    def answer(self, ctx: FakeContext) -> Any:
        return self.code(ctx)

    @property
    def directory(self) -> Path:
        return self.service.functions

    @property
    def problems(self) -> Any:
        return self.service.sandbox.problems

    def reload(self) -> None:
        self.service.sandbox.reload()

    def write(self, function: str, manifest: str) -> None:
        """Write a function with that manifest, and look at the directory again."""
        folder = self.directory / function
        folder.mkdir(exist_ok=True)
        (folder / "index.py").write_text("")
        (folder / "function.yaml").write_text(manifest)
        self.reload()


def echo(ctx: FakeContext) -> Any:
    return {"function": ctx.function, "input": ctx.input}


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
    sandbox: PlainFunctions
    dispatcher: Dispatcher
    service: Service

    def key(self, *scopes: Scope, **more: Any) -> dict[str, str]:
        """Headers with a new API key."""
        database = open_database(database_url(self.service.settings))
        spec = KeySpec(name="test", scopes=scopes or ("invoke",), **more)
        _, text = KeyStore(database).create(spec)
        database.dispose()
        return {"authorization": f"Bearer {text}"}


@contextlib.contextmanager
def plain_server(
    tmp_path: Path, **options: Any
) -> Iterator[tuple[httpx.Client, PlainFunctions, Dispatcher]]:
    with served(tmp_path, **options) as place:
        yield place.client, place.sandbox, place.dispatcher


@contextlib.contextmanager
def served(
    tmp_path: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    code: Callable[[FakeContext], Any] = echo,
    kind: type[PlainFunctions] = PlainFunctions,
    function_limits: Mapping[str, Any] | None = None,
    **server: Any,
) -> Iterator[Served]:
    values = {"store": tmp_path / "store", "server": server, "pool": {"enabled": False}}
    if secrets is not None:
        values["secrets_file"] = tmp_path / "secrets.yaml"
        (tmp_path / "secrets.yaml").write_text(yaml.safe_dump(dict(secrets)))
    settings = Settings.model_validate(values | {"limits": function_limits or {}})
    (tmp_path / "functions").mkdir()
    functions = kind(code)
    service = Service.build(
        settings, tmp_path / "functions", reserved=RESERVED, engine=functions.engine
    )
    functions.service = service
    service.start()
    try:
        app = create_app(lambda: service, Readiness())
        with listening(app, lambda: settings.server) as client:
            yield Served(client, functions, service.dispatcher, service)
    finally:
        service.drain(0)
    assert functions.engine.containers({}) == []
