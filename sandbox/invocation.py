"""One invocation under way: its clock, what was heard so far, and the response it leads to.

It is handed a container that is created and not started; who makes and removes containers is
`sandbox.executor`.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from sandbox.engine.base import ContainerStartError
from sandbox.errors import Code
from sandbox.models import FunctionError, FunctionResponse, LogEntry, Stats, timestamp_now
from sandbox.outcome import (
    boot_timeout_error,
    death_error,
    death_from,
    flood_error,
    limits_touched,
    timeout_error,
)
from sandbox.protocol.handler import HandlerCollector
from sandbox.protocol.logs import LimitExceeded
from sandbox.protocol.response import StdioCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.deploy import Deployment
    from sandbox.engine.base import Container
    from sandbox.models import FunctionRequest
    from sandbox.protocol.response import Parsed
    from sandbox.settings import Settings

# After a kill, how long to wait for the stream to end, for the last of the logs.
_DRAIN_SECONDS: Final = 1.0
# After a handler's answer, how long to wait for what it printed before.
_LINGER_SECONDS: Final = 0.1


class Invocation:
    """One request to one deployment. `timeout` is in seconds, from now to the response."""

    def __init__(
        self,
        deployment: Deployment,
        request: FunctionRequest,
        *,
        settings: Settings,
        timeout: float,
        on_log: Callable[[LogEntry], None],
    ) -> None:
        limits = settings.limits
        collector = (
            HandlerCollector if deployment.function.interface == "handler" else StdioCollector
        )
        self.deployment = deployment
        self.time_limit = timeout
        self._request = request
        self._limits = limits
        self._engine_timeout = settings.engine.timeout
        self._on_log = on_log
        self._told = 0
        self._collector = collector(
            max_output=limits.output, max_logs=limits.logs, now=timestamp_now
        )
        # Times of `time.monotonic`. The one deadline covers queue, boot and run.
        self._asked_at = time.monotonic()
        self._deadline = self._asked_at + timeout
        self._booting_at = self._asked_at
        self._ready_at: float | None = None
        self._answered_at: float | None = None

    def queued(self) -> None:
        """The wait for a place is over; the container boots."""
        self._booting_at = time.monotonic()

    def converse(self, container: Container, payload: bytes) -> FunctionError | None:
        """Start, ask, and listen until the function has answered or ended.

        Returns the limit that stopped it, or None. After that it has to be killed.
        """
        try:
            container.start()
        except ContainerStartError as error:
            return FunctionError(
                code=Code.INIT_FAILED,
                message="its container could not be started",
                details={"reason": str(error)},
            )
        container.send(payload, end=True)
        try:
            self._listen(container)
        except TimeoutError:
            return self._out_of_time()
        except LimitExceeded as exceeded:
            return flood_error(exceeded.limit, self._limits, observed=exceeded.observed)
        return None

    def _listen(self, container: Container) -> None:
        boot_deadline = self._booting_at + self._limits.boot
        while True:
            self._note_ready()
            if self._collector.complete or self._collector.ended:
                return
            deadline = self._deadline
            if self._ready_at is None:
                deadline = min(deadline, boot_deadline)
            chunk = container.receive(deadline)
            if chunk is None:
                return
            self._tell(self._collector.feed(chunk))

    def _tell(self, entries: Sequence[LogEntry]) -> None:
        """Hand log entries on as they come; in the end they are the response's, in its order."""
        for entry in entries:
            self._told += 1
            self._on_log(entry)

    def _note_ready(self) -> None:
        waits = self.deployment.function.interface == "stdio" or self._collector.ready
        if self._ready_at is None and waits:
            self._ready_at = time.monotonic()

    def _out_of_time(self) -> FunctionError:
        now = time.monotonic()
        if self._collector.init_error is not None:
            return self._collector.init_error
        if self._ready_at is None and now < self._deadline:
            return boot_timeout_error(self._limits.boot, observed=now - self._booting_at)
        return timeout_error(
            self.time_limit, observed=now - self._asked_at, answered=self._collector.answered
        )

    def linger(self, container: Container) -> None:
        """After a handler's answer, take the rest: prints that are on their way, init's report.

        They come by another stream than the answer. A handler that does not end at once is not
        waited for any longer.
        """
        self._answered_at = time.monotonic()
        if self._collector.complete:
            self._drain(container, self._answered_at + _LINGER_SECONDS)

    def drain(self, container: Container) -> None:
        """Take what a killed function had still written, for its logs."""
        self._drain(container, time.monotonic() + _DRAIN_SECONDS)

    def _drain(self, container: Container, deadline: float) -> None:
        while True:
            try:
                chunk = container.receive(deadline)
            except TimeoutError:
                return
            if chunk is None:
                return
            with contextlib.suppress(LimitExceeded):
                self._tell(self._collector.feed(chunk))

    def answered(self, container: Container) -> FunctionResponse:
        """The response of a function that answered or ended by itself."""
        parsed = self._collector.finish()
        report = self._collector.report
        if parsed.well_formed:
            return self._response(parsed, parsed.error)
        if self._collector.init_error is not None:
            return self._response(parsed, self._collector.init_error)
        if report is None and not self._collector.complete:
            # Init was killed too, or is not there: the engine knows how it ended.
            ended = container.wait(self._engine_timeout)
            death = death_from(None, exit_code=ended.exit_code, oom_killed=ended.oom_killed)
        else:
            death = death_from(report)
        error = death_error(
            death,
            self.deployment.policy,
            phase="boot" if self._ready_at is None else "run",
            invalid=parsed.error,
        )
        return self._response(parsed, error)

    def killed(self, error: FunctionError) -> FunctionResponse:
        """The response of a function that a limit stopped."""
        return self._response(self._collector.finish(), error)

    def _response(self, parsed: Parsed, error: FunctionError | None) -> FunctionResponse:
        # What came with the response itself, such as the logs of a stdio function's document.
        self._tell(parsed.logs[self._told :])
        now = time.monotonic()
        ended_at = self._answered_at or now
        ready_at = self._ready_at if self._ready_at is not None else ended_at
        # Init sees all of the container; where it has not reported, the bootstrap tells its own.
        report = self._collector.report
        used = report or self._collector.usage
        policy = self.deployment.policy
        return FunctionResponse(
            request_id=self._request.request_id,
            success=error is None,
            output=parsed.output if error is None else None,
            error=error,
            logs=parsed.logs,
            duration_ms=_milliseconds(now - self._asked_at),
            stats=Stats(
                cold=True,
                queue_ms=_milliseconds(self._booting_at - self._asked_at),
                boot_ms=_milliseconds(ready_at - self._booting_at),
                run_ms=_milliseconds(ended_at - ready_at),
                cpu_ms=used.cpu_ms if used else None,
                peak_memory_bytes=used.peak_memory_bytes if used else None,
                runtime_class=self.deployment.runtime_class,
                version=self.deployment.bundle.digest,
                limits_hit=limits_touched(report, policy, error),
            ),
        )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
