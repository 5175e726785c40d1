"""Suite `serve`: what HTTP costs. 64 callers at once, in this process and over HTTP, in turns.

    in process   64 threads, through `Sandbox.invoke`
    http         64 connections of wrk to `sandbox serve`, with everything that it does besides:
                 authentication off, executions on record, metrics, a log line for each

Containers serve many requests (`reuse`), so that it is not the engine that is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.context import FUNCTIONS, INPUT, Context, call
from benchmarks.throughput import rate

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE: Final = "serve"
SUBJECT: Final = "python-handler"
CALLERS: Final = 64
_SETTINGS: Final[dict[str, Any]] = {
    "ceilings": {"reuse": 1_000_000},
    "pool": {"min_warm": 16, "max_warm": 16},
}
_POST: Final = """wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["Content-Type"] = "application/json"
function done(summary)
    io.stderr:write(string.format("%d %d %d", summary.requests, summary.duration,
                    summary.errors.status + summary.errors.connect + summary.errors.timeout))
end
"""


def run(context: Context) -> None:
    """Measure both ways, in turns."""
    context.log("serve")
    seconds = 4 if context.quick else 10
    samples: dict[str, list[float]] = {"in process": [], "http": []}
    with (
        context.sandbox(**_SETTINGS) as sandbox,
        _served(context) as url,
        tempfile.NamedTemporaryFile("w", suffix=".lua") as script,
    ):
        script.write(_POST.format(body=json.dumps(INPUT)))
        script.flush()
        for way in [*samples, *samples] * (1 if context.quick else 3):
            if way == "http":
                samples[way].append(_load(url, script.name, seconds))
            else:
                count = 500 * seconds
                invoke = lambda: call(sandbox, SUBJECT)  # noqa: E731
                samples[way].append(rate(invoke, count, until=lambda: None, clients=CALLERS))
    for way, rates in samples.items():
        # The first of each has booted what the others used.
        context.results.add(SUITE, SUBJECT, way, "per second", rates[1:])


@contextlib.contextmanager
def _served(context: Context) -> Iterator[str]:
    """The URL of a `sandbox serve` of the benchmarks' functions, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        settings = Path(directory, "sandbox.yaml")
        # JSON is YAML.
        settings.write_text(json.dumps({"store": str(context.store), **_SETTINGS}))
        process = subprocess.Popen(
            [
                sys.executable, "-m", "sandbox_cli", "serve", "--json", "--port", "0",
                "--functions", str(FUNCTIONS), "--settings", str(settings),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "listening":
                    yield f"{event['url']}/api/functions/{SUBJECT}"
                    return
            raise click.ClickException("the server did not start")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _load(url: str, script: str, seconds: int) -> float:
    """Requests a second that were answered well."""
    ended = subprocess.run(
        ["wrk", "-t1", f"-c{CALLERS}", f"-d{seconds}s", "-s", script, url],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    requests, microseconds, failed = map(int, re.findall(r"\d+", ended.stderr)[-3:])
    if failed:
        raise click.ClickException(f"{failed} of {requests} requests failed")
    return requests / (microseconds / 1e6)
