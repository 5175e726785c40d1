"""The command line: a process for every invocation, alone or through a running `sandbox watch`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.context import INPUT, Context, copies
from benchmarks.host import cli_environment
from benchmarks.interleave import NotCountedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM: Final = Path(sys.executable).with_name("sandbox")


def _command(name: str, *more: str) -> list[str | Path]:
    return [PROGRAM, "invoke", name, "--json", "-d", json.dumps(INPUT), *more]


def cli_cold(context: Context, name: str, functions: Path) -> Callable[[], None]:
    """`sandbox invoke`, which makes a fresh container."""
    environment = cli_environment(context.store, functions)
    return lambda: _run(_command(name, "--local"), environment, cold=True)


@contextlib.contextmanager
def cli_warm(context: Context, name: str) -> Iterator[Callable[[], None]]:
    """`sandbox invoke` through `sandbox watch`, which serves this one function meanwhile.

    An invocation that found no container booted is no sample: it raises NotCountedError.
    """
    with copies(**{name: name}) as functions:
        environment = cli_environment(context.store, functions)
        with subprocess.Popen(
            [PROGRAM, "watch", "--json"], env=environment, stdout=subprocess.PIPE, text=True
        ) as watching:
            try:
                assert watching.stdout is not None
                assert json.loads(watching.stdout.readline())["event"] == "ready"
                yield lambda: _run(_command(name), environment, cold=False)
            finally:
                # Not SIGINT, which a shell has its background jobs ignore.
                watching.terminate()


def _run(command: list[str | Path], environment: dict[str, str], *, cold: bool) -> None:
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    response = json.loads(ended.stdout)
    assert response["success"], response
    if response["stats"]["cold"] != cold:
        raise NotCountedError
