"""`sandbox serve`: the functions over HTTP."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import click

from sandbox.builds.failure import BuildFailedError
from sandbox.errors import SandboxError
from sandbox.local.address import find_address
from sandbox.secrets import load_secrets
from sandbox.server.life import Life
from sandbox.server.requestlog import configure_logging
from sandbox.watcher import Watcher

from .companions import prepare, screen_for, served
from .options import Common, common_options
from .output import dump, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.server.service import Service
    from sandbox.settings import Settings

    from .companions import Screen


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

    @contextlib.contextmanager
    def in_service(service: Service) -> Iterator[None]:
        # Before anything else: if the settings change meanwhile, no client finds us.
        address = find_address(common.functions, common.settings_file, common.environment)
        stop = threading.Event()
        follow = _watch if watched else _warm
        thread = threading.Thread(
            target=follow, args=(service, screen, stop), name="warming", daemon=True
        )
        with served(address, service.sandbox, screen):
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()

    try:
        Life(load, common.functions, in_service=in_service, announce=announce).run()
    finally:
        logs.close()


def _watch(service: Service, screen: Screen, stop: threading.Event) -> None:
    """Reload functions as they change, until `stop`."""
    sandbox = service.sandbox
    secrets = load_secrets(service.settings.secrets_file)
    watcher = Watcher(
        sandbox,
        service.functions,
        stop=stop,
        prepare=lambda function: prepare(sandbox, function, secrets),
    )
    for event in watcher.events():
        screen.show(event)


def _warm(service: Service, screen: Screen, stop: threading.Event) -> None:
    """Build what is to be built, and boot what is to be kept booted; nobody waits for it."""
    for name in service.sandbox.functions:
        if stop.is_set():
            return
        try:
            service.sandbox.warm(name)
        except BuildFailedError as failure:
            screen.warn(f"{name}: {failure.message}\n{failure.log}".rstrip())
        except SandboxError as error:
            screen.warn(f"{name}: {error}")
