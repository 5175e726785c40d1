"""`sandbox serve`: the functions over HTTP."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import click

from sandbox.deploy.watcher import Watcher
from sandbox.errors import BuildFailedError, SandboxError
from sandbox.local.address import find_address
from sandbox.server.lifecycle import Lifecycle
from sandbox.server.telemetry.request_log import configure_logging

from .companions import open_socket, prepare, screen_for
from .options import Common, common_options
from .output import dump, printable

if TYPE_CHECKING:
    from sandbox.config.settings import Settings
    from sandbox.server.service import Service

    from .companions import Screen


log = logging.getLogger(__name__)


@click.command
@click.option("--host", metavar="ADDRESS", help="Address to listen at, else `server.host`.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen at, 0: any; else `server.port`."
)
@click.option("--watch", "watched", is_flag=True, help="Reload functions as they change.")
@common_options
def serve(common: Common, host: str | None, port: int | None, watched: bool) -> None:
    """Serve the functions over HTTP.

    Prints the URL once requests are taken. SIGTERM or Ctrl-C lets what runs finish, SIGHUP reads
    settings, secrets and functions again.
    """
    logs = configure_logging()
    screen = screen_for(common)

    def load() -> Settings:
        settings = common.settings()
        given = {"host": host, "port": port}
        changed = {name: value for name, value in given.items() if value is not None}
        if not changed:
            return settings
        return settings.with_server(changed)

    def announce(url: str) -> None:
        if common.json:
            click.echo(dump({"event": "listening", "url": url}))
            return
        click.echo(f"serving {printable(str(common.functions))} at {url}")

    def accompany(service: Service) -> _Companion:
        return _Companion(service, common, screen, watched=watched)

    try:
        Lifecycle(load, common.functions, accompany=accompany, announce=announce).run()
    finally:
        logs.close()


class _Companion:
    """Goes with a service: the local socket, and a thread that warms or watches functions."""

    def __init__(self, service: Service, common: Common, screen: Screen, *, watched: bool) -> None:
        # Before anything else: if the settings change meanwhile, no client finds this process.
        address = find_address(common.functions, common.settings_file, common.environment)
        self._stopping = threading.Event()
        self._socket = open_socket(address, service.sandbox, screen, invoker=service.dispatcher)
        self._thread = threading.Thread(
            target=_watch if watched else _warm,
            args=(service, screen, self._stopping),
            name="watching" if watched else "warming",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._socket is not None:
            self._socket.stop()

    def close(self) -> None:
        self._thread.join()
        if self._socket is not None:
            self._socket.close()


def _watch(service: Service, screen: Screen, stopping: threading.Event) -> None:
    """Reload functions as they change, until `stopping`."""
    sandbox = service.sandbox
    watcher = Watcher(
        sandbox,
        service.functions,
        stop=stopping,
        prepare=lambda function: prepare(sandbox, function, sandbox.secrets),
    )
    try:
        for event in watcher.events():
            screen.show(event)
    except Exception:  # the edge of a thread
        log.exception("functions are not watched any more")


def _warm(service: Service, screen: Screen, stopping: threading.Event) -> None:
    """Build and boot functions in the background."""
    for name in service.sandbox.functions:
        try:
            service.sandbox.warm(name)
        except BuildFailedError as failure:
            if not stopping.is_set():
                screen.warn(f"{name}: {failure.message}\n{failure.log}".rstrip())
        except SandboxError as error:
            screen.warn(f"{name}: {error}")
        except Exception:  # the edge of a thread
            log.exception("%s is not warmed", name)
        if stopping.is_set():
            return
