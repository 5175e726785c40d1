"""Suite `cost`: the CPU time that the executor itself takes for an invocation.

No container runs: the engine is `sandbox.testing`'s, whose containers answer at once, so only
the work of this process is measured, garbage collection included.

    invoking thread   `Sandbox.invoke` alone, as the CPU time of the thread that calls it
    whole process     all threads: those of the pool and, for `warm`, of the launcher, which make
                      the next container and remove the last; and the fake's own work
    the fake alone    the fake's part of it: create, start, send, read, remove

`warm` uses a new, already booted container for each invocation; `reuse` uses the same one, without
any start or removal. Samples are means over batches. `Docker` is
the same with the real engine, where each life costs this process four calls over HTTP.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.context import FUNCTIONS, Context, call, ready, wait_for
from benchmarks.peers import bare_loop
from sandbox import Sandbox
from sandbox.testing import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE: Final = "cost"
_BATCH: Final = 50
# Of containers that run.
_FEW: Final = 8
_REMOVAL: Final = 0.5
_UNIT: Final = "ms"


def run(context: Context) -> None:
    """Measure both interfaces warm, and reuse."""
    context.log("cost")
    batches = 20 if context.quick else 200
    for interface in ("stdio", "handler"):
        _measure(context, interface, "warm", batches)
    _measure(context, "handler", "reuse", batches)
    _measure_real(context, "python-handler", 2 if context.quick else 8)


def _measure(context: Context, interface: str, way: str, batches: int) -> None:
    name = f"python-{interface}"
    warm = _BATCH if way == "warm" else 1
    settings = context.settings(
        pool={"min_warm": warm, "max_warm": warm, "containers": 1000, "memory": "1000gb"},
        ceilings={"reuse": 1 if way == "warm" else 1_000_000},
    )
    engine = FakeEngine()
    with Sandbox(FUNCTIONS, settings=settings, engine=engine) as sandbox:
        call(sandbox, name)

        def refilled() -> None:
            wait_for(lambda: ready(sandbox, name) >= warm and len(engine.containers({})) == warm)

        refilled()
        thread, process = cpu_times(
            lambda: call(sandbox, name), _BATCH, batches=batches, until=refilled
        )
    subject = f"{interface}, {way}"
    context.results.add(SUITE, subject, "invoking thread", _UNIT, thread)
    context.results.add(SUITE, subject, "whole process", _UNIT, process)
    if way == "warm":
        once = bare_loop(engine, context.deployment(sandbox, name))
        alone, _ = cpu_times(once, _BATCH, batches=batches // 4, until=lambda: None)
        context.results.add(SUITE, subject, "the fake alone", _UNIT, alone)


def _measure_real(context: Context, name: str, batches: int) -> None:
    with context.sandbox(pool={"min_warm": _FEW, "max_warm": _FEW}) as sandbox:
        call(sandbox, name)

        def refilled() -> None:
            wait_for(lambda: ready(sandbox, name) >= _FEW)
            # Also until the last are removed. Asking the engine would itself cost CPU.
            time.sleep(_REMOVAL)

        refilled()
        thread, process = cpu_times(
            lambda: call(sandbox, name), _FEW, batches=batches, until=refilled
        )
    context.results.add(SUITE, "handler, warm, Docker", "invoking thread", _UNIT, thread)
    context.results.add(SUITE, "handler, warm, Docker", "whole process", _UNIT, process)


def cpu_times(
    action: Callable[[], object], count: int, *, batches: int, until: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """CPU milliseconds for each time: of this thread, and of the process with the wait `until`.

    `count` times make a batch, and a sample; the first batch warms up.
    """
    threads, processes = [], []
    for number in range(batches + 1):
        process = time.process_time()
        thread = time.thread_time()
        for _ in range(count):
            action()
        thread_spent = time.thread_time() - thread
        until()
        if number:
            threads.append(thread_spent * 1000 / count)
            processes.append((time.process_time() - process) * 1000 / count)
    return threads, processes
