"""Suite `steady`: warm latencies at half of what the machine sustains.

The ceiling is measured just before: fresh containers a second, through the executor. Then
requests come at half that rate, evenly, whether earlier ones are answered or not; each time is
taken from the moment at which the request was due, so that a wait for a late client counts.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks.context import INPUT, Context, call
from benchmarks.throughput import CLIENTS, rate

if TYPE_CHECKING:
    from sandbox import Sandbox

SUITE: Final = "steady"
_CLIENTS: Final = 32


def run(context: Context) -> None:
    """Measure both interfaces of Python."""
    for name in ("python-handler", "python-stdio"):
        context.log(f"steady: {name}")
        _measure(context, name, seconds=8 if context.quick else 30)


def _measure(context: Context, name: str, *, seconds: float) -> None:
    with context.sandbox(pool={"min_warm": CLIENTS}, concurrency=_CLIENTS) as sandbox:
        call(sandbox, name)
        context.settle(sandbox)
        count = 20 if context.quick else 50
        ceiling = rate(lambda: call(sandbox, name), count, until=lambda: context.settle(sandbox))
        times, cold = open_loop(sandbox, name, per_second=ceiling / 2, seconds=seconds)
    note = f"{ceiling / 2:.1f} a second; {cold} of {len(times)} found none ready"
    context.results.add(SUITE, name, "warm", "ms", times, note=note)


def open_loop(
    sandbox: Sandbox, name: str, *, per_second: float, seconds: float
) -> tuple[list[float], int]:
    """Milliseconds from when each was due to its answer; and how many were cold starts."""

    def serve(due: float) -> tuple[float, bool]:
        response = sandbox.invoke(name, INPUT)
        took = (time.perf_counter() - due) * 1000
        assert response.success, response.error
        return took, response.stats is None or response.stats.cold

    began = time.perf_counter() + 0.1
    with ThreadPoolExecutor(_CLIENTS) as threads:
        asked = []
        for number in range(int(per_second * seconds)):
            due = began + number / per_second
            time.sleep(max(0.0, due - time.perf_counter()))
            asked.append(threads.submit(serve, due))
        answers = [item.result() for item in asked]
    return [took for took, _ in answers], sum(cold for _, cold in answers)
