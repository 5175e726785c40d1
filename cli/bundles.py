"""`sandbox bundles`: lists the bundles of the store, and removes unused ones."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict

import click

from sandbox.containers.reaper import reap
from sandbox.engine.delivery import delivery_of
from sandbox.engine.docker.engine import DockerEngine
from sandbox.store.bundles import KEPT, BundleStore
from sandbox.store.owners import Owner
from sandbox.units import format_duration, format_size

from .options import Common, common_options, duration
from .output import print_json, print_table, short_digest


@click.group
def bundles() -> None:
    """List and remove bundles: code, dependencies, builds."""


@bundles.command("list")
@common_options
def list_bundles(common: Common) -> None:
    """List the bundles, the last used first. A file that several share counts in each."""
    found = BundleStore(common.settings().store_directory).bundles()
    if common.json:
        print_json([asdict(bundle) for bundle in found])
        return
    now = time.time()
    print_table(
        ("VERSION", "SIZE", "FILES", "LAST USED"),
        [
            (
                short_digest(bundle.digest),
                format_size(bundle.size),
                str(bundle.files),
                "in use" if bundle.in_use else _ago(now - bundle.last_used),
            )
            for bundle in found
        ],
    )


@bundles.command
@click.option(
    "--older-than",
    metavar="DURATION",
    type=duration,
    default=f"{KEPT / 3600:.0f}h",
    show_default=True,
    help="Keep bundles that were used within this time.",
)
@click.option("--all", "everything", is_flag=True, help="Keep only bundles in use.")
@common_options
def prune(common: Common, older_than: float, everything: bool) -> None:
    """Remove bundles that are not in use and were not used for some time.

    Each process that runs functions does so on its own, with the default time.
    """
    settings = common.settings()
    store = settings.store_directory
    # Containers that a killed process left behind still use their bundles: remove them first.
    found = BundleStore(store)
    with closing(DockerEngine(settings.engine)) as engine, closing(Owner(store)) as owner:
        reap(engine, store)
        removed = found.prune(older_than=0.0 if everything else older_than)
        delivery = delivery_of(engine, settings.engine, bundles=found, store=store, owner=owner)
        delivery.prune()
    if common.json:
        print_json({"bundles": removed})
        return
    click.echo(f"removed {len(removed)} bundle{'' if len(removed) == 1 else 's'}")


def _ago(seconds: float) -> str:
    return f"{format_duration(round(seconds))} ago"
