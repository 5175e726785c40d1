"""Traces by OpenTelemetry: a span for each execution, its phases below it. Off unless configured.

The spans are made after an execution has ended, from times that are measured in any case.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sandbox import __version__
from sandbox.errors import InvalidSettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from sandbox.call import Call
    from sandbox.config.server_settings import TracingSettings
    from sandbox.errors import SandboxError
    from sandbox.executions.model import Execution
    from sandbox.models import FunctionResponse

_NANOSECONDS: Final = 1_000_000_000
# Seconds to wait for an unresponsive collector at the end.
_EXPORT_SECONDS: Final = 3.0
_PHASES: Final = ("queue", "boot", "run")


def build_tracing(settings: TracingSettings) -> Tracing | None:
    """The exporter of traces to the collector in the settings; None without one.

    Raises:
        InvalidSettingsError: the packages for it are not installed.
    """
    if settings.endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415 - the same
            ParentBasedTraceIdRatio,
        )
    except ImportError:
        raise InvalidSettingsError(
            "server.tracing.endpoint is set, and OpenTelemetry is not installed",
            hint="pip install 'alyx-sandbox[tracing]'",
        ) from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": "alyx-sandbox", "service.version": __version__}),
        sampler=ParentBasedTraceIdRatio(settings.ratio),
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint, timeout=_EXPORT_SECONDS))
    )
    return Tracing(provider)


class Tracing:
    """An observer of executions that makes spans of them."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - an extra
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("alyx-sandbox", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        self._provider.shutdown()

    def started(self, execution: Execution, call: Call) -> None:
        """Nothing is known yet."""

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,
        error: SandboxError | None,
        call: Call,
    ) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra

        carrier = {"traceparent": call.traceparent} if call.traceparent else {}
        end = time.time_ns()
        milliseconds = 0.0 if response is None else response.duration_ms
        began = execution.started_at or execution.created_at
        start = end - round(milliseconds * 1e6) if milliseconds else round(began * _NANOSECONDS)
        span = self._tracer.start_span(
            f"invoke {execution.function}",
            context=self._propagator.extract(carrier),
            kind=trace.SpanKind.SERVER,
            start_time=start,
            attributes={
                "faas.name": execution.function,
                "faas.trigger": call.trigger,
                "faas.invocation_id": execution.id,
                "alyx.status": execution.status,
            },
        )
        code = execution.code
        if code is not None:
            span.set_attribute("alyx.code", code)
            span.set_status(trace.StatusCode.ERROR, error.message if error else code)
        if response is not None:
            stats = response.stats
            span.set_attribute("faas.coldstart", stats.cold)
            if stats.version:
                span.set_attribute("faas.version", stats.version)
            context = trace.set_span_in_context(span)
            place = start
            for phase in _PHASES:
                length = round((getattr(stats, f"{phase}_ms") or 0.0) * 1e6)
                if length:
                    part = self._tracer.start_span(phase, context=context, start_time=place)
                    place += length
                    part.end(end_time=place)
        span.end(end_time=end)
