"""Traces, as a collector gets them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sandbox.call import Call
from sandbox.config.server_settings import TracingSettings
from sandbox.executions.model import Execution
from sandbox.models import FunctionResponse, Stats
from sandbox.server.telemetry.tracing import build_tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An address on loopback, and the spans that were sent to it."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            spans.extend(
                span
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()
    thread.join()
    server.server_close()


def ended() -> tuple[Execution, FunctionResponse]:
    execution = Execution(
        id="req_1", function="hello", caller="anonymous", trigger="http", status="succeeded",
        created_at=1.0, started_at=1.0,
    )  # fmt: skip
    stats = Stats(cold=True, queue_ms=2.0, boot_ms=30.0, run_ms=5.0, version="abc")
    response = FunctionResponse(request_id="req_1", success=True, duration_ms=40.0, stats=stats)
    return execution, response


def test_nothing_is_traced_unless_it_is_asked_for() -> None:
    assert build_tracing(TracingSettings()) is None


def test_an_execution_is_a_span_below_the_callers_with_its_phases_below_it(
    collector: tuple[str, list[Any]],
) -> None:
    endpoint, spans = collector
    tracing = build_tracing(TracingSettings(endpoint=endpoint))
    assert tracing is not None
    execution, response = ended()
    call = Call(function="hello", traceparent=f"00-{TRACE}-{PARENT}-01")
    tracing.ended(execution, response, None, call)
    tracing.close()
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"invoke hello", "queue", "boot", "run"}
    whole = by_name["invoke hello"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    for phase, milliseconds in (("queue", 2), ("boot", 30), ("run", 5)):
        part = by_name[phase]
        assert part.parent_span_id == whole.span_id
        assert part.end_time_unix_nano - part.start_time_unix_nano == milliseconds * 1_000_000
    attributes = {item.key: item.value for item in whole.attributes}
    assert attributes["faas.invocation_id"].string_value == "req_1"
    assert attributes["faas.coldstart"].bool_value is True


def test_without_a_callers_trace_it_begins_one_unless_it_is_not_sampled(
    collector: tuple[str, list[Any]],
) -> None:
    endpoint, spans = collector
    execution, response = ended()
    for ratio in (1.0, 0.0):
        tracing = build_tracing(TracingSettings(endpoint=endpoint, ratio=ratio))
        assert tracing is not None
        tracing.ended(execution, response, None, Call(function="hello", traceparent="nonsense"))
        tracing.close()
    assert [span.parent_span_id for span in spans if span.name == "invoke hello"] == [b""]
