"""`sandbox watch`: hot reload, and the process that `sandbox invoke` goes through meanwhile."""

from __future__ import annotations

import contextlib

import click

from sandbox.local.address import find_address
from sandbox.sandbox import Sandbox

from .local_socket import open_socket
from .options import Common, common_options
from .screens import screen_for


@click.command
@click.option(
    "--poll",
    is_flag=True,
    help="Look at files twice a second, for file systems that report no changes.",
)
@common_options
def watch(common: Common, poll: bool) -> None:
    """Reload functions as they change; serve `sandbox invoke`.

    Prints the changes and problems of each reload. While it runs, `sandbox invoke` with the same
    functions and settings goes through it. Ctrl-C ends it.
    """
    screen = screen_for(common)
    # Before the settings are read: if they change in between, no client finds this process.
    address = find_address(common.functions, common.settings_file, common.environment)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Sandbox(common.functions, settings=common.settings()) as sandbox,
        open_socket(address, sandbox, screen) or contextlib.nullcontext(),
    ):
        for event in sandbox.watch(polling=poll):
            screen.show(event)
