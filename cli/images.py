"""`sandbox images`: builds, lists and removes the runtimes' images."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox.containers.reaper import reap
from sandbox.engine.docker.engine import DockerEngine
from sandbox.images import catalog, image_builder
from sandbox.units import format_duration, format_size

from .options import Common, common_options
from .output import fit_terminal, print_json, print_table, printable

if TYPE_CHECKING:
    from sandbox.images.image_builder import Progress


@click.group
def images() -> None:
    """Build, list and remove the runtimes' images."""


@images.command
@click.argument("runtimes", metavar="[RUNTIME]...", nargs=-1)
@click.option(
    "--base", metavar="IMAGE", help="Debian image to build from.  [default: mmdebstrap makes one]"
)
@click.option(
    "--ca-bundle",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CA certificates to trust while building.  [default: the host's]",
)
@click.option(
    "--force", is_flag=True, help="Build current images again too, with Debian's updates."
)
@common_options
def build(
    common: Common, runtimes: tuple[str, ...], base: str | None, ca_bundle: Path | None, force: bool
) -> None:
    """Build the images of RUNTIME, or all, unless they are up to date."""
    settings = common.settings()
    built: list[Progress] = []
    with closing(DockerEngine(settings.engine)) as engine:
        screen = _BuildScreen(quiet=common.json)

        def on_progress(progress: Progress) -> None:
            if progress.event in ("built", "current"):
                built.append(progress)
            screen.show(progress)

        try:
            image_builder.build(
                engine,
                runtimes,
                base=base or settings.images.base,
                ca_bundle=ca_bundle or settings.images.ca_bundle,
                force=force,
                on_progress=on_progress,
            )
        finally:
            screen.clear()
    if common.json:
        print_json([asdict(progress) for progress in built])


@images.command("list")
@common_options
def list_images(common: Common) -> None:
    """List the images: state, version of the runtime, size."""
    with closing(DockerEngine(common.settings().engine)) as engine:
        statuses = catalog.status(engine)
    if common.json:
        print_json([asdict(status) for status in statuses])
        return
    print_table(
        ("NAME", "STATE", "VERSION", "SIZE", "REFERENCE"),
        [
            (
                status.name,
                status.state,
                status.version,
                "" if status.size is None else format_size(status.size),
                status.reference,
            )
            for status in statuses
        ],
    )
    if any(status.state != "ready" for status in statuses):
        click.echo("`sandbox images build` builds missing and stale images", err=True)


@images.command
@common_options
def remove(common: Common) -> None:
    """Remove all images of this project, and containers that killed processes have left."""
    settings = common.settings()
    with closing(DockerEngine(settings.engine)) as engine:
        containers = reap(engine, settings.store_directory)
        removed = catalog.remove(engine)
    if common.json:
        print_json({"images": removed, "containers": containers})
        return
    for tag in removed:
        click.echo(f"removed {tag}")
    if containers:
        click.echo(f"removed {containers} orphaned container{'s' if containers > 1 else ''}")


class _BuildScreen:
    """Prints a line for each finished image; on a terminal, also the present step."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet

    def show(self, progress: Progress) -> None:
        if progress.event in ("building", "output"):
            self._step(f"{progress.image}: {progress.text.strip() or 'building'}")
        elif not self._quiet:
            self.clear()
            took = (
                "up to date"
                if progress.event == "current"
                else f"built in {format_duration(round(progress.seconds, 1))}"
            )
            click.echo(f"{progress.image:<12}  {took:<16}  {format_size(progress.size):>8}")

    def clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)

    def _step(self, text: str) -> None:
        if self._live:
            line = fit_terminal(printable(text).replace("\n", " ").replace("\t", " "))
            click.echo(f"\r\x1b[K{click.style(line, dim=True)}", nl=False, err=True)
