"""Suite `neighbour`: a well-behaved function's warm latency beside a greedy one.

The attacker runs all the time, in containers with the usual limits, one at a time.
"""

from __future__ import annotations

from typing import Final

from benchmarks.context import Context, call
from benchmarks.refill import busy, warm_times

SUITE: Final = "neighbour"
_NAME: Final = "python-handler"
_ATTACKERS: Final = {
    "busy loop": "attack-cpu", "memory hog": "attack-memory", "fork bomb": "attack-fork",
    "log flood": "attack-log",
}  # fmt: skip


def run(context: Context) -> None:
    """Measure each attacker, with idle times before each."""
    times: dict[str, list[float]] = {"idle": []}
    rounds = 6 if context.quick else 25
    with context.sandbox(pool={"min_warm": 1, "max_warm": 1}) as sandbox:
        call(sandbox, _NAME)
        for label, attacker in _ATTACKERS.items():
            context.log(f"neighbour: {label}")
            context.settle(sandbox)
            times["idle"] += warm_times(sandbox, _NAME, rounds // 2)
            with busy(sandbox.invoke, [attacker]):
                times[label] = warm_times(sandbox, _NAME, rounds)
    for way, samples in times.items():
        context.results.add(SUITE, _NAME, way, "ms", samples)
