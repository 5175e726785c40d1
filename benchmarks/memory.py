"""Suite `memory`: the host process's memory for warm containers, and after many invocations.

Measured as resident memory in a process of its own, with the fake engine: the sockets and buffers
of a real engine's client come on top. `python -m benchmarks.memory` is that process.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.context import FUNCTIONS, call, ready, wait_for
from sandbox import Sandbox, Settings
from sandbox.testing import FakeEngine

if TYPE_CHECKING:
    from benchmarks.context import Context

SUITE: Final = "memory"
_NAME: Final = "python-handler"
_WARM: Final = 1000
_BEFORE: Final = 500


def run(context: Context) -> None:
    """Have another process measure it."""
    context.log("memory")
    count = 2_000 if context.quick else 10_000
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", str(count)],
        cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found = json.loads(ended.stdout)
    context.results.add(SUITE, "host process", "1000 warm", "MiB", [found["warm"]])
    label = f"{count} calls"
    context.results.add(SUITE, "host process", label, "MiB", [found["growth"]])


def main() -> None:
    """Print what was measured, in MiB."""
    with tempfile.TemporaryDirectory() as store:
        print(json.dumps({"growth": growth(store, int(sys.argv[1])), "warm": of_warm(store)}))


def of_warm(store: str) -> float:
    """MiB for that many warm containers."""
    with _sandbox(store, 1) as sandbox:
        call(sandbox, _NAME)
        wait_for(lambda: ready(sandbox, _NAME) == 1)
    before = resident()
    with _sandbox(store, _WARM) as sandbox:
        call(sandbox, _NAME)
        wait_for(lambda: ready(sandbox, _NAME) == _WARM)
        return (resident() - before) / (1 << 20)


def growth(store: str, count: int) -> float:
    """MiB by which the process grows over that many invocations, after the first ones."""
    with _sandbox(store, 4) as sandbox:
        for _ in range(_BEFORE):
            call(sandbox, _NAME)
        before = resident()
        for _ in range(count):
            call(sandbox, _NAME)
        return (resident() - before) / (1 << 20)


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _sandbox(store: str, warm: int) -> Sandbox:
    settings = Settings.model_validate(
        {
            "store": store,
            "pool": {"min_warm": warm, "max_warm": warm, "containers": 2000, "memory": "1000gb"},
        }
    )
    return Sandbox(FUNCTIONS, settings=settings, engine=FakeEngine())


if __name__ == "__main__":
    main()
