"""`sandbox watch`: hot reload, and the process that `sandbox invoke` goes through meanwhile."""

from __future__ import annotations

import threading

import click

from sandbox.deploy.watcher import Watcher
from sandbox.functions.secrets import load_secrets
from sandbox.local.address import find_address
from sandbox.sandbox import Sandbox

from .companions import prepare, screen_for, served
from .options import Common, common_options


@click.command
@click.option(
    "--poll",
    is_flag=True,
    help="Look at files twice a second: for file systems that tell of no changes.",
)
@common_options
def watch(common: Common, poll: bool) -> None:
    """Reload functions as they change; serve `sandbox invoke`.

    Prints what each reload changed, and what is wrong. While it runs, `sandbox invoke` with the
    same functions and settings goes through it. Ctrl-C ends it.
    """
    screen = screen_for(common)
    # Before the settings are read: if they change in between, no client finds us.
    address = find_address(common.functions, common.settings_file, common.environment)
    settings = common.settings()
    secrets = load_secrets(settings.secrets_file)
    stop = threading.Event()
    try:
        with (
            Sandbox(common.functions, settings=settings) as sandbox,
            served(address, sandbox, screen),
        ):
            watcher = Watcher(
                sandbox,
                common.functions,
                stop=stop,
                prepare=lambda function: prepare(sandbox, function, secrets),
                polling=poll,
            )
            for event in watcher.events():
                screen.show(event)
    except KeyboardInterrupt:
        stop.set()
