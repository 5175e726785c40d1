"""What is counted, under which names; and that nothing a caller sends becomes a label."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sandbox.call import Call
from sandbox.executions.model import Execution
from sandbox.models import (
    FunctionError,
    FunctionResponse,
    NetworkDenied,
    NetworkStats,
    Stats,
)
from sandbox.server.telemetry.metrics import Metrics


def execution(code: str | None = None) -> Execution:
    return Execution(
        id="req_1", function="hello", caller="anonymous", trigger="http",
        status="failed" if code else "succeeded", code=code, created_at=0.0,
    )  # fmt: skip


def response(
    code: str | None = None, *, answered: bool = True, **stats: object
) -> FunctionResponse:
    return FunctionResponse(
        request_id="req_1",
        success=code is None,
        error=FunctionError(code=code, message="") if code else None,
        duration_ms=12.0,
        answered=answered,
        stats=Stats(**{"cold": False, "run_ms": 10.0, **stats}),  # type: ignore[arg-type]
    )


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    text = metrics.text().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_executions_are_counted_by_function_trigger_and_code() -> None:
    metrics = Metrics()
    call = Call(function="hello")
    metrics.ended(execution(), response(), None, call)
    metrics.ended(execution("TIMEOUT"), response("TIMEOUT", answered=False), None, call)
    # The function's own codes are its own, whatever they are called: one label for all of them.
    metrics.ended(execution("E1"), response("E1"), None, call)
    metrics.ended(execution("TIMEOUT"), response("TIMEOUT"), None, call)
    found = samples(metrics)
    name = "alyx_sandbox_executions_total"
    assert found[name, ("OK", "hello", "http")] == 1
    assert found[name, ("TIMEOUT", "hello", "http")] == 1
    assert found[name, ("FUNCTION_OWN", "hello", "http")] == 2


def test_phases_cold_starts_and_refused_destinations() -> None:
    metrics = Metrics()
    denied = NetworkStats(denied=(NetworkDenied(destination="x:1", reason="no", attempts=3),))
    metrics.ended(
        execution(),
        response(cold=True, boot_ms=200.0, network=denied),
        None,
        Call(function="hello"),
    )
    found = samples(metrics)
    assert found["alyx_sandbox_execution_seconds_sum", ("hello", "boot")] == 0.2
    assert found["alyx_sandbox_execution_seconds_sum", ("hello", "total")] == 0.012
    assert found["alyx_sandbox_cold_starts_total", ("hello",)] == 1
    assert found["alyx_sandbox_network_refused_total", ("hello",)] == 3


def test_labels_of_requests_and_of_the_engine_are_bounded() -> None:
    metrics = Metrics()
    for number in range(50):
        metrics.request(f"METHOD{number}", 405)
        metrics.engine_call(f"GET /v1.41/containers/{number:064x}/json", 0.1, False)
        metrics.engine_call(f"GET /v1.41/images/alyx-sandbox/python:{number}/json", 0.1, True)
    found = samples(metrics)
    assert found["alyx_sandbox_http_requests_total", ("other", "405")] == 50
    calls = {labels[0] for name, labels in found if name == "alyx_sandbox_engine_seconds_count"}
    assert calls == {"GET containers/json", "GET images/json"}
