"""Latency of one invocation, side by side in one run: `make bench`, or `python -m benchmarks`.

The ways are interleaved, so that a noisy machine is equally noisy to all of them, and compared as
ratios of medians; absolute times say little on another machine.

    bare          the function as a subprocess of the host, as Alyx runs it (where the host has
                  the interpreter)
    docker run    the function through the engine's own command line, with the same limits
    library       Sandbox.invoke, a fresh container for every invocation
    cli           `sandbox invoke`, a fresh process and a fresh container
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox import Sandbox
from sandbox.policy import effective_policy, new_uid
from sandbox.runtimes import FUNCTION_DIR, INIT, RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.function import Function

EXAMPLES = Path(__file__).parent.parent / "examples" / "functions"
STDIO = ("hello-python", "hello-node", "hello-deno", "hello-bun")
INPUT = {"name": "World"}


def ways(function: Function, sandbox: Sandbox) -> dict[str, Callable[[], None]]:
    """Each way to invoke `function`, by name; a way that cannot work here is left out."""
    runtime = RUNTIMES[function.runtime]
    policy = effective_policy(function, sandbox.settings)
    request = json.dumps({"request_id": "bench", "function": function.name, "input": INPUT})
    uid = new_uid()
    docker_run = [
        "docker", "run", "--rm", "--interactive", "--runtime", "crun", "--network", "none",
        "--read-only", "--tmpfs", f"/tmp:size={policy.tmp}", "--memory", str(policy.memory),
        "--memory-swap", str(policy.memory), "--cpus", str(policy.cpu),
        "--pids-limit", str(policy.pids), "--cap-drop", "ALL", "--log-driver", "none",
        "--security-opt", "no-new-privileges", "--user", f"{uid}:{uid}",
        *(part for name, value in runtime.env.items() for part in ("--env", f"{name}={value}")),
        "--volume", f"{function.source}:{FUNCTION_DIR}:ro", f"alyx-sandbox/{runtime.image}",
        INIT, *runtime.command(function.entrypoint, "stdio"),
    ]  # fmt: skip
    cli = [
        Path(sys.executable).with_name("sandbox"), "invoke", function.name, "--functions", EXAMPLES,
        "-d", json.dumps(INPUT), "--json",
    ]  # fmt: skip

    def process(command: list[str | Path]) -> Callable[[], None]:
        def run() -> None:
            ended = subprocess.run(
                command, input=request, text=True, capture_output=True, check=True
            )
            assert json.loads(ended.stdout)["success"], ended.stderr

        return run

    def library() -> None:
        response = sandbox.invoke(function.name, INPUT)
        assert response.success, response.error

    found = {"docker run": process(docker_run), "library": library, "cli": process(cli)}
    if shutil.which(runtime.interpreter[0]):
        bare = [*runtime.interpreter, function.source / function.entrypoint]
        found = {"bare": process(bare)} | found
    return found


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way, interleaved; the first round warms caches and is not kept."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number:
                times[name].append((time.perf_counter() - began) * 1000)
    return times


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Invocations of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print all samples as JSON.")
@click.argument("names", nargs=-1)
def main(rounds: int, as_json: bool, names: tuple[str, ...]) -> None:
    """Compare the ways to invoke NAMES, stdio functions of examples/functions."""
    samples = {}
    with Sandbox(EXAMPLES) as sandbox:
        for name in names or STDIO:
            samples[name] = measure(ways(sandbox.functions[name], sandbox), rounds)
    if as_json:
        click.echo(json.dumps(samples))
        return
    click.echo(f"{'function':14} {'way':11} {'p50':>8} {'min':>8} {'p95':>8}   to docker run")
    for name, times in samples.items():
        reference = statistics.median(times["docker run"])
        for way, values in times.items():
            ordered = sorted(values)
            median = statistics.median(ordered)
            p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
            click.echo(
                f"{name:14} {way:11} {median:6.0f}ms {ordered[0]:6.0f}ms {p95:6.0f}ms"
                f"   {median / reference:.2f}"
            )


if __name__ == "__main__":
    main()
