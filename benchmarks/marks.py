"""The project's marks: ratios with bounds, which a run is compared with. Pure.

Nearly all are ratios of two measurements of the same run, so they are comparable between machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.stats import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.series import Results

Comparison = Literal["≤", "≥"]


@dataclass(frozen=True)
class Mark:
    """A value that should stay on one side of a bound; `value` is None if it was not measured."""

    name: str
    comparison: Comparison
    bound: float
    value: float | None
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it is reached; None if it was not measured."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.comparison == "≤" else self.value >= self.bound


def marks(results: Results) -> list[Mark]:
    """All marks, with the values of this run."""
    return list(_marks(results))


def _marks(results: Results) -> Iterator[Mark]:
    def latency(subject: str, way: str) -> float | None:
        return results.median("latency", subject, way)

    stdio = "python-stdio"
    # Both interpreters are measured; the faster one is the harder mark.
    bare = _least(latency(stdio, "bare"), latency(stdio, "bare host"))
    yield Mark("warm / bare, Python stdio, p50", "≤", 0.30, _ratio(latency(stdio, "warm"), bare))
    yield Mark(
        "warm under gVisor / bare, the same", "≤", 0.60, _ratio(latency(stdio, "warm gvisor"), bare)
    )
    for runtime in ("python", "node"):
        handler = f"{runtime}-handler"
        warm, echo = latency(handler, "warm"), latency(handler, "attach echo")
        over = None if warm is None or echo is None else warm - echo
        yield Mark(f"warm over the echo's time, {runtime} handler, p50", "≤", 1.0, over, "ms")
    yield Mark(
        "warm p99 / p50 at half the ceiling", "≤", 4.0, _tail(results, "steady", "python-handler")
    )
    yield Mark(
        "cold / docker run, Python stdio, p50",
        "≤",
        0.60,
        _ratio(latency(stdio, "cold"), latency(stdio, "docker run")),
    )
    fresh, bare_loop, reuse = (
        results.median("throughput", "python-handler", way)
        for way in ("fresh", "bare loop", "reuse")
    )
    yield Mark("fresh / bare loop, containers a second", "≥", 0.90, _ratio(fresh, bare_loop))
    yield Mark("reuse / fresh, invocations a second", "≥", 25.0, _ratio(reuse, fresh))
    http, in_process = (
        results.median("serve", "python-handler", way) for way in ("http", "in process")
    )
    yield Mark("reuse over HTTP / in process, 64 callers", "≥", 0.60, _ratio(http, in_process))
    for interface in ("stdio", "handler"):
        cost = results.median("cost", f"{interface}, warm", "whole process")
        yield Mark(f"own CPU of a warm invocation, {interface}", "≤", 1.0, cost, "ms")
    yield Mark(
        "warm p50 while 8 are refilled / idle",
        "≤",
        3.0,
        _ratio(
            results.median("refill", "python-handler", "8 refilled"),
            results.median("refill", "python-handler", "idle"),
        ),
    )


def _tail(results: Results, suite: str, subject: str) -> float | None:
    found = results.find(suite, subject, "warm")
    if found is None:
        return None
    return quantile(found.samples, 0.99) / quantile(found.samples, 0.5)


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _ratio(value: float | None, to: float | None) -> float | None:
    return None if value is None or not to else value / to
