"""`Instance`: a container that serves a function, and what it has written so far.

The launcher creates it, the pool keeps it while it is idle, an invocation sends it a request. Only
one of them uses it at a time, so nothing here is locked.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandbox.engine.base import ContainerStartError
from sandbox.errors import Code
from sandbox.models import FunctionError, timestamp_now
from sandbox.protocol.handler import HandlerCollector
from sandbox.protocol.logs import LimitExceeded
from sandbox.protocol.report import Marks, Report
from sandbox.protocol.response import StdioCollector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.config.settings import Settings
    from sandbox.deploy.deployer import Deployment
    from sandbox.engine.base import Chunk, Container, Exit
    from sandbox.gateway.gateway import Gateway
    from sandbox.models import LogEntry
    from sandbox.protocol.response import Collector


class Instance:
    """One container of a deployment, not started yet. `nonce` marks the lines of its init."""

    def __init__(
        self,
        deployment: Deployment,
        container: Container,
        gateway: Gateway,
        *,
        nonce: str,
        settings: Settings,
    ) -> None:
        self.deployment = deployment
        self.container = container
        self.gateway = gateway
        self.limits = settings.limits
        self._engine_timeout = settings.engine.timeout
        self._marks = Marks(nonce)
        self.collector: Collector = self._new_collector()
        # Times of `time.monotonic`.
        self.created_at = time.monotonic()
        self.started_at = self.created_at
        # When the invocation that it serves got its turn.
        self.granted_at = self.created_at
        # How many requests it was sent.
        self.requests = 0
        self._renewed = False
        # Whether its output has ended: its first process is gone, or has closed its streams.
        self.ended = False
        # Why it cannot serve: it did not start, or wrote too much while it booted.
        self.failure: FunctionError | None = None
        self.flood: LimitExceeded | None = None
        # What it had used when the present request began.
        self.baseline = Report()

    def _new_collector(self) -> Collector:
        handler = self.deployment.function.interface == "handler"
        return (HandlerCollector if handler else StdioCollector)(
            max_output=self.limits.output,
            max_logs=self.limits.logs,
            now=timestamp_now,
            marks=self._marks,
        )

    @property
    def ready(self) -> bool:
        """Whether it has booted and waits for a request."""
        return self._renewed or self.collector.ready

    @property
    def usable(self) -> bool:
        return not (self.ended or self.failure or self.flood or self.collector.init_error)

    @property
    def answered_unasked(self) -> bool:
        """Whether it has answered without a request; meaningful while it is idle."""
        collector = self.collector
        mismatched = isinstance(collector, HandlerCollector) and collector.mismatched
        return collector.complete or mismatched

    @property
    def boot_deadline(self) -> float:
        """When it must have booted, in the time of `time.monotonic`."""
        return self.started_at + self.limits.boot

    @property
    def why_unusable(self) -> str:
        """Why it cannot take a request."""
        if self.failure is not None:
            return self.failure.message
        if self.flood is not None:
            return f"it wrote more than its cap on {self.flood.limit} before it was asked"
        if self.collector.init_error is not None:
            return self.collector.init_error.message
        if self.ended:
            return f"it ended before it was asked{_how(self.collector.report)}"
        if self.answered_unasked:
            return "it answered before it was asked"
        return "it was not ready for a request within limits.boot"

    def start(self) -> None:
        """Start the container. If its command cannot be run, that is its `failure`."""
        try:
            self.container.start()
        except ContainerStartError as error:
            self.failure = FunctionError(
                code=Code.INIT_FAILED,
                message="its container could not be started",
                details={"reason": str(error)},
            )
        self.started_at = time.monotonic()

    def send_request(self, payload: bytes, request_id: str, *, last: bool) -> None:
        """Send a request, and with `last` the end of stdin. `receive` gets the answer."""
        self.requests += 1
        if isinstance(self.collector, HandlerCollector):
            self.collector.expect(request_id)
        self.container.send(payload, end=last)

    def receive(self, deadline: float) -> Sequence[LogEntry]:
        """Wait for the next chunk of output and `feed` it.

        Raises:
            TimeoutError: nothing came until `deadline`, on the clock of `time.monotonic`.
            LimitExceeded: it wrote more than it may, and has to be killed.
        """
        return self.feed(self.container.receive(deadline))

    def feed(self, chunk: Chunk | None) -> Sequence[LogEntry]:
        """Take a chunk of output, None at its end; the log entries that it completes.

        Raises:
            LimitExceeded: it wrote more than it may, and has to be killed.
        """
        if chunk is None:
            self.ended = True
            return ()
        entries = self.collector.feed(chunk)
        self.ended = self.collector.ended
        return entries

    def read_idle_output(self) -> None:
        """Take the output that came while it was idle, without waiting. Notes a flood."""
        try:
            while not self.ended:
                self.receive(0.0)
        except TimeoutError:
            return
        except LimitExceeded as exceeded:
            self.flood = exceeded

    def wait(self) -> Exit:
        """How its container ended, as the engine saw it; for when init did not report it."""
        return self.container.wait(self._engine_timeout)

    def renew(self) -> None:
        """Get ready for another request: forget the last one."""
        self._renewed = True
        self.baseline = self.collector.report or self.baseline
        self.collector = self._new_collector()
        self.gateway.begin()


def _how(report: Report | None) -> str:
    """How it ended, as far as its init has told."""
    if report is None or not report.ended:
        return ""
    return f" (signal {report.signal})" if report.signal else f" (exit code {report.exit_code})"
