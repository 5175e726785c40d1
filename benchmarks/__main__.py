"""The benchmarks: `make bench`, or `python -m benchmarks [SUITE…]`. docs/performance.md."""

from __future__ import annotations

import importlib
import json
import os
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from benchmarks.context import Context
from benchmarks.machine import describe
from benchmarks.marks import marks
from benchmarks.series import Results
from benchmarks.summary import summaries
from benchmarks.table import render
from sandbox.config.settings import default_store
from sandbox.engine.docker.engine import DockerEngine

# In the order in which they run; each is a module with `run(context)`.
SUITES: Final = (
    "latency", "throughput", "steady", "burst", "refill", "neighbour", "cost", "memory",
    "hardening", "serve",
)  # fmt: skip
RUNTIMES: Final = ("python", "node", "deno", "bun", "go")
INTERFACES: Final = ("stdio", "handler")


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice(SUITES), metavar="[SUITE]…")
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(RUNTIMES))
@click.option("--interface", "interfaces", multiple=True, type=click.Choice(INTERFACES))
@click.option("--rounds", default=12, show_default=True, help="Turns of each way to invoke.")
@click.option("--quick", is_flag=True, help="A look in a few minutes; too few samples to quote.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all samples.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write table.txt, summary.json and latency.png there; the picture needs matplotlib.",
)
def main(  # noqa: PLR0913, PLR0917 - click passes them by name
    suites: tuple[str, ...],
    runtimes: tuple[str, ...],
    interfaces: tuple[str, ...],
    rounds: int,
    quick: bool,
    json_file: Path | None,
    save: Path | None,
) -> None:
    """Measure SUITES, else all of them, and print a table."""
    engine = DockerEngine()
    machine = describe(engine)
    context = Context(
        engine=engine,
        store=default_store(os.environ) / "benchmarks",
        results=Results(),
        rounds=6 if quick else rounds,
        quick=quick,
        runtimes=runtimes or RUNTIMES,
        interfaces=interfaces or INTERFACES,
    )
    failed = []
    try:
        for name in suites or SUITES:
            try:
                importlib.import_module(f"benchmarks.{name}").run(context)
            except Exception:  # what the other suites measured is worth keeping
                traceback.print_exc()
                failed.append(name)
    finally:
        context.close()
        engine.close()
    results = context.results
    table = render(results, marks(results), machine)
    click.echo(table, nl=False)
    if json_file is not None:
        document = {"machine": machine, "series": results.to_dict()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    if save is not None:
        from benchmarks.plot import draw  # noqa: PLC0415 - needs the extra `bench`

        save.mkdir(parents=True, exist_ok=True)
        (save / "table.txt").write_text(table)
        summary = {
            "machine": machine,
            "series": summaries(results),
            "marks": [asdict(mark) | {"reached": mark.reached} for mark in marks(results)],
        }
        (save / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        draw(results, save / "latency.png")
    if failed:
        raise click.ClickException(
            f"failed, and measured in part or not at all: {', '.join(failed)}"
        )


if __name__ == "__main__":
    main()
