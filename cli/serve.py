"""`sandbox serve`: serves the functions over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandbox.local.address import find_address
from sandbox.server.http.operations import RESERVED
from sandbox.server.lifecycle import Lifecycle
from sandbox.server.service import Service
from sandbox.server.telemetry.request_log import configure_logging

from .local_socket import open_socket
from .options import Common, common_options
from .screens import screen_for

if TYPE_CHECKING:
    from sandbox.local.server import LocalServer


@click.command
@click.option("--host", metavar="ADDRESS", help="Address to listen at; overrides `server.host`.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen at, 0 for any free one; overrides `server.port`.",
)
@click.option("--watch", "watched", is_flag=True, help="Reload functions as they change.")
@common_options
def serve(common: Common, host: str | None, port: int | None, watched: bool) -> None:
    """Serve the functions over HTTP.

    Prints the URL when it is ready. On SIGTERM or Ctrl-C, it finishes the requests under way and
    ends; on SIGHUP, it reads settings, secrets and functions again.
    """
    logs = configure_logging()
    screen = screen_for(common)

    def build(before: Service | None) -> Service:
        settings = common.settings()
        given = {"host": host, "port": port}
        changed = {name: value for name, value in given.items() if value is not None}
        if changed:
            settings = settings.with_server(changed)
        return Service.build(settings, common.functions, reserved=RESERVED, before=before)

    def open_for(service: Service) -> LocalServer | None:
        address = find_address(common.functions, common.settings_file, common.environment)
        return open_socket(address, service.sandbox, screen, invoker=service.dispatcher)

    try:
        Lifecycle(build, reporter=screen, open_socket=open_for, watch=watched).run()
    finally:
        logs.close()
