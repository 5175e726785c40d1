"""Suite `refill`: a function's warm latency while the containers of eight others are replaced.

Each of the others is invoked, by a thread of its own, whenever its container is ready: so the pool
boots their containers all the time. Idle and busy times alternate.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from benchmarks.context import Context, call, copies, ready, timed, wait_for
from benchmarks.interleave import NotCountedError
from benchmarks.latency import call_warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox import Sandbox

SUITE: Final = "refill"
_OTHERS: Final = 8


def run(context: Context) -> None:
    """Measure the honest function, idle and busy."""
    context.log("refill")
    others = [f"other-{number}" for number in range(_OTHERS)]
    names = dict.fromkeys(["honest", *others], "python-handler")
    with (
        copies(**names) as functions,
        context.sandbox(functions, pool={"min_warm": 1, "max_warm": 1}) as sandbox,
    ):
        for name in names:
            call(sandbox, name)
        times: dict[str, list[float]] = {"idle": [], f"{_OTHERS} refilled": []}
        for _ in range(1 if context.quick else 3):
            context.settle(sandbox)
            times["idle"] += warm_times(sandbox, "honest", 10)
            with busy(lambda name: _once_ready(sandbox, name), others):
                times[f"{_OTHERS} refilled"] += warm_times(sandbox, "honest", 20)
    for way, samples in times.items():
        context.results.add(SUITE, "python-handler", way, "ms", samples)


def warm_times(sandbox: Sandbox, name: str, count: int) -> list[float]:
    """Milliseconds of so many warm invocations, each of a container that is ready."""
    times = []
    for _ in range(count):
        wait_for(lambda: ready(sandbox, name) > 0)
        with contextlib.suppress(NotCountedError):
            times.append(timed(lambda: call_warm(sandbox, name)))
    return times


@contextlib.contextmanager
def busy(action: Callable[[str], object], names: Sequence[str]) -> Iterator[None]:
    """Meanwhile a thread for each name does `action` with it, again and again."""
    stop = threading.Event()

    def go_on(name: str) -> None:
        while not stop.is_set():
            action(name)

    threads = [threading.Thread(target=go_on, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _once_ready(sandbox: Sandbox, name: str) -> None:
    wait_for(lambda: ready(sandbox, name) > 0)
    call(sandbox, name)
