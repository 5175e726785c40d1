"""Structured logs of executions, and how the server's logs are written."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from sandbox.errors import SandboxError
    from sandbox.executions.model import Call, Execution
    from sandbox.models import FunctionResponse

executions = structlog.get_logger("sandbox.executions")


def configure_logging() -> None:
    """Write logs to stderr: JSON lines, or for a terminal in colours."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("sandbox", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)


class ExecutionLog:
    """An observer: one line for each execution that has ended."""

    def started(self, execution: Execution, call: Call) -> None:
        """Nothing is written."""

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,  # noqa: ARG002
        error: SandboxError | None,  # noqa: ARG002
        call: Call,  # noqa: ARG002
    ) -> None:
        """How it ended. Nothing of its input, its output or its own log."""
        executions.info(
            "execution",
            request_id=execution.id,
            function=execution.function,
            status=execution.status,
            code=execution.code,
            caller=execution.caller,
            trigger=execution.trigger,
            attempts=execution.attempts,
            queue_ms=execution.queue_ms,
            run_ms=execution.run_ms,
            cold=execution.cold,
            version=execution.version,
        )
