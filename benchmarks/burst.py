"""Suite `burst`: 32 requests at once, to a function that is cold, and to one with 32 ready.

`each` is the time of every request, `last` the time until all are answered.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks.context import Context, call, ready, timed, wait_for

if TYPE_CHECKING:
    from sandbox import Sandbox

SUITE: Final = "burst"
SIZE: Final = 32
_NAME: Final = "python-handler"


def run(context: Context) -> None:
    """Measure both."""
    for warm in (0, SIZE):
        context.log(f"burst: {warm} warm")
        pool = {"min_warm": warm, "max_warm": warm}
        with context.sandbox(warm=warm > 0, pool=pool, concurrency=SIZE) as sandbox:
            call(sandbox, _NAME)
            each, last = [], []
            for _ in range(1 if context.quick else 3):
                _wait_until_ready(sandbox, warm)
                context.settle(sandbox)
                times = _burst(sandbox)
                each += times
                last.append(max(times))
        subject = f"{SIZE} at once, {warm} warm"
        context.results.add(SUITE, subject, "each", "ms", each)
        context.results.add(SUITE, subject, "last", "ms", last)


def _wait_until_ready(sandbox: Sandbox, count: int) -> None:
    wait_for(lambda: ready(sandbox, _NAME) >= count)


def _burst(sandbox: Sandbox) -> list[float]:
    start = threading.Barrier(SIZE)

    def one() -> float:
        start.wait()
        return timed(lambda: call(sandbox, _NAME))

    with ThreadPoolExecutor(SIZE) as threads:
        return [item.result() for item in [threads.submit(one) for _ in range(SIZE)]]
