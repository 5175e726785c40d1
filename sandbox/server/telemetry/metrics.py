"""The server's metrics in the format of Prometheus, with the duration of engine calls.

Labels are names of deployed functions, never text that callers send: an unknown name becomes no
label.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from sandbox import __version__
from sandbox.errors import CODES, Code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from sandbox.call import Call
    from sandbox.errors import SandboxError
    from sandbox.executions.model import Execution
    from sandbox.models import FunctionResponse

_PREFIX: Final = "alyx_sandbox"
# Seconds: a warm invocation takes milliseconds, a build minutes.
_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
_OWN_CODE: Final = "FUNCTION_OWN"
# Words of the engine's API. Ids contain digits, names of images and volumes other characters.
_WORD: Final = re.compile(r"[a-z]{2,12}")


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """The state of a server at one moment. `pool` maps functions to their counts of containers.

    `queued` is None while the database cannot be used.
    """

    pool: Mapping[str, Mapping[str, object]]
    running: int
    queued: int | None
    tokens: int
    unrecorded: int


class Metrics:
    """An observer of executions. `watch` adds the gauges, read when Prometheus asks for them."""

    def __init__(self) -> None:
        # The time at which a series began would be one more series for each, of little use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        # Series by their labels: looking one up in its metric takes ten times as long.
        self._series = functools.cache(_series)
        self._states: _States | None = None
        self._executions = Counter(
            f"{_PREFIX}_executions",
            "Executions that have ended, by error code; OK where it succeeded, "
            "FUNCTION_OWN for codes of the functions' own.",
            ("function", "trigger", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{_PREFIX}_execution_seconds",
            "How long executions took, by phase.",
            ("function", "phase"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._cold = Counter(
            f"{_PREFIX}_cold_starts",
            "Executions that had to wait for their container to boot.",
            ("function",),
            registry=self.registry,
        )
        self._refused = Counter(
            f"{_PREFIX}_network_refused",
            "Destinations that functions tried to reach and were refused.",
            ("function",),
            registry=self.registry,
        )
        self._engine = Histogram(
            f"{_PREFIX}_engine_seconds",
            "How long calls to the container engine took.",
            ("call", "outcome"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            f"{_PREFIX}_http_requests",
            "Requests over HTTP, by status.",
            ("method", "status"),
            registry=self.registry,
        )

    def watch(self, read: Callable[[], Gauges]) -> None:
        if self._states is not None:
            self.registry.unregister(self._states)
        self._states = _States(read)
        self.registry.register(self._states)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def request(self, method: str, status: int) -> None:
        known = method in ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
        self._series(self._requests, method if known else "other", str(status)).inc()

    def engine_call(self, call: str, seconds: float, failed: bool) -> None:
        """Count a call to the engine: its method and path, duration and whether it failed."""
        outcome = "error" if failed else "ok"
        self._series(self._engine, _call_name(call), outcome).observe(seconds)

    def started(self, execution: Execution, call: Call) -> None:
        """Nothing is counted."""

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,
        error: SandboxError | None,
        call: Call,
    ) -> None:
        name = execution.function
        code = _label(execution.code, response)
        self._series(self._executions, name, call.trigger, code).inc()
        if response is None or error is not None:
            return
        stats = response.stats
        phases = {
            "queue": stats.queue_ms,
            "boot": stats.boot_ms,
            "run": stats.run_ms,
            "total": response.duration_ms,
        }
        for phase, milliseconds in phases.items():
            if milliseconds is not None:
                self._series(self._seconds, name, phase).observe(milliseconds / 1000)
        if stats.cold and stats.run_ms is not None:  # it had a container at all
            self._series(self._cold, name).inc()
        if stats.network is not None and stats.network.denied:
            self._series(self._refused, name).inc(
                sum(item.attempts for item in stats.network.denied)
            )


def _series(metric: Any, *labels: str) -> Any:
    return metric.labels(*labels)


def _label(code: str | None, response: FunctionResponse | None) -> str:
    if code is None:
        return "OK"
    own = response is not None and response.answered
    return code if code in CODES and not (own and code != Code.FUNCTION_ERROR) else _OWN_CODE


class _States:
    """A collector of the gauges, which reads them when Prometheus asks."""

    def __init__(self, read: Callable[[], Gauges]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """The metrics' names, known before a service runs."""
        return list(_families())

    def collect(self) -> Iterator[Metric]:
        gauges = self._read()
        pool, running, queued, tokens, unrecorded, info = _families()
        for name, state in gauges.pool.items():
            for what in ("ready", "booting", "busy", "waiting"):
                count = state[what]
                pool.add_metric([name, what], float(count) if isinstance(count, int) else 0.0)
        running.add_metric([], gauges.running)
        if gauges.queued is not None:  # else /healthz tells
            queued.add_metric([], gauges.queued)
        tokens.add_metric([], gauges.tokens)
        unrecorded.add_metric([], gauges.unrecorded)
        info.add_metric([__version__], 1)
        yield from (pool, running, queued, tokens, unrecorded, info)


def _families() -> tuple[GaugeMetricFamily, ...]:
    """The metrics of `_States`, without samples."""
    return (
        GaugeMetricFamily(
            f"{_PREFIX}_pool_containers",
            "Containers of a function by state; `waiting` are invocations without one.",
            labels=("function", "state"),
        ),
        GaugeMetricFamily(f"{_PREFIX}_executions_running", "Executions that run now."),
        GaugeMetricFamily(
            f"{_PREFIX}_executions_queued",
            "Background executions that have not started, over all servers.",
        ),
        GaugeMetricFamily(f"{_PREFIX}_internal_tokens", "Internal tokens that are valid now."),
        GaugeMetricFamily(
            f"{_PREFIX}_executions_unrecorded", "Executions that could not be put on record."
        ),
        GaugeMetricFamily(f"{_PREFIX}_info", "This server.", labels=("version",)),
    )


# For the tests that compare the dashboard and the alerts with it.
FAMILIES: Final = _families()


def _call_name(call: str) -> str:
    """`GET /v1.41/containers/ID/json` as `GET containers/json`: a bounded number of names."""
    method, _, path = call.partition(" ")
    words = [word for word in path.split("/") if word]
    if words and words[0].startswith("v1."):
        del words[0]
    known = [word for word in words[:1] + words[-1:] if _WORD.fullmatch(word)]
    return f"{method} {'/'.join(dict.fromkeys(known))}"
