"""Suite `throughput`: how much the machine sustains, by the same number of clients.

    bare loop     create, attach, start, send, read, remove: the same container through the same
                  `DockerEngine`, without the executor; it has no gateway's files to mount
    fresh         a container for each invocation, of a warm pool
    fresh, cold   the same, and none is booted ahead
    reuse         containers that serve many invocations

A sample is a whole batch: it ends when every container that was made for it is gone, and those
that were kept ready at its beginning are there again. Nothing is left to be paid later.
"""

from __future__ import annotations

import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks.context import Context, call
from benchmarks.peers import bare_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import Sandbox

SUITE: Final = "throughput"
CLIENTS: Final = 4
_NAMES: Final = ("python-handler", "python-stdio")
_POOL: Final = {"min_warm": CLIENTS, "max_warm": CLIENTS}


def run(context: Context) -> None:
    """Measure fresh containers of both interfaces, and reuse of the handler's."""
    for name in _NAMES:
        context.log(f"throughput: {name}")
        _measure(context, name)


def _measure(context: Context, name: str) -> None:
    with contextlib.ExitStack() as stack:

        def opened(*, warm: bool = True, reuse: int = 1) -> Sandbox:
            sandbox = context.sandbox(warm=warm, pool=_POOL, ceilings={"reuse": reuse})
            return stack.enter_context(sandbox)

        warm, cold = opened(), opened(warm=False)
        sandboxes = [warm, cold]
        once = bare_loop(context.engine, context.deployment(warm, name))
        batch = 20 if context.quick else 40
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "bare loop": (once, batch),
            "fresh": (lambda: call(warm, name), batch),
            "fresh, cold": (lambda: call(cold, name), batch),
        }
        if name.endswith("handler"):
            reusing = opened(reuse=1_000_000)
            sandboxes.append(reusing)
            ways["reuse"] = (lambda: call(reusing, name), 50 * batch)
        for action, _ in ways.values():
            action()

        def settle() -> None:
            context.settle(*sandboxes)

        rates: dict[str, list[float]] = {way: [] for way in ways}
        order = random.Random(1)
        for _ in range(1 if context.quick else 3):
            for way in order.sample(sorted(ways), len(ways)):
                action, count = ways[way]
                settle()
                rates[way].append(rate(action, count, until=settle))
    for way, samples in rates.items():
        context.results.add(SUITE, name, way, "per second", samples)


def rate(
    action: Callable[[], object],
    count: int,
    *,
    until: Callable[[], object],
    clients: int = CLIENTS,
) -> float:
    """How often per second `clients` threads do it, over `count` times and the wait for `until`."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for ended in [threads.submit(action) for _ in range(count)]:
            ended.result()
    until()
    return count / (time.perf_counter() - began)
