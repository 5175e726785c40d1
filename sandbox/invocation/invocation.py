"""One invocation under way: its clock, its log, and the response it leads to.

An invocation is given an instance: a container that has booted, or still boots.
`sandbox.containers.launcher` makes and removes instances; `sandbox.pool` keeps them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sandbox.engine.steps import BLOCKING, LIGHT, Receive
from sandbox.errors import Code
from sandbox.gateway.summary import denied_entry, with_names
from sandbox.invocation.limits_hit import limits_touched
from sandbox.invocation.outcome import (
    Spent,
    boot_timeout_error,
    death_error,
    death_from,
    flood_error,
    timeout_error,
)
from sandbox.models import FunctionError, FunctionResponse, LogEntry, Stats
from sandbox.protocol.logs import LimitExceeded, yield_to_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.cancellation import Cancellation
    from sandbox.containers.instance import Instance
    from sandbox.deploy.deployer import Deployment
    from sandbox.engine.steps import Steps
    from sandbox.models import FunctionRequest
    from sandbox.protocol.redaction import Redactor
    from sandbox.protocol.report import Report
    from sandbox.protocol.response import Parsed

# After a kill, how long to wait for the stream to end, for the last of the logs.
_DRAIN_SECONDS: Final = 1.0
# However short a chunk or an entry is, it is work: it counts as this many bytes.
_SHORT: Final = 256
# When a flood of logs reaches a cap, the rest after each piece of work, as a multiple of its time.
_LONGEST_REST: Final = 8.0
# After a handler's answer, how long to wait for what the handler printed before it, in seconds.
_LINGER_SECONDS: Final = 0.1


class InvocationLog:
    """The log of an invocation, without secrets, in the order that its response has it in."""

    def __init__(
        self, redactor: Redactor, on_log: Callable[[LogEntry], None] | None = None
    ) -> None:
        self.redactor = redactor
        self._on_log = on_log or (lambda _: None)
        self.entries: list[LogEntry] = []

    def add(self, entries: Sequence[LogEntry]) -> None:
        """Keep entries, and hand each to `on_log`."""
        for entry in yield_to_threads(map(self.redactor.entry, entries)):
            self.entries.append(entry)
            self._on_log(entry)


class Invocation:
    """One request to one deployment. `time_limit` is in seconds, from now to the response."""

    def __init__(
        self,
        deployment: Deployment,
        request: FunctionRequest,
        *,
        time_limit: float,
        log: InvocationLog,
        cancellation: Cancellation,
    ) -> None:
        self.deployment = deployment
        self.time_limit = time_limit
        self.cancellation = cancellation
        self._request = request
        self._log = log
        self._cold = True
        # Times of `time.monotonic`. The one deadline covers queue, boot and run.
        self._asked_at = time.monotonic()
        self.deadline = self._asked_at + time_limit
        self._served_at = self._asked_at
        self._ready_at: float | None = None
        self._answered_at: float | None = None
        # Nothing out of the ordinary has happened: the instance may serve another request.
        self.went_well = False

    def granted(self, at: float) -> None:
        """Note when its turn came, on the clock of `time.monotonic`."""
        self._served_at = at

    def converse(
        self, instance: Instance, payload: bytes, *, last: bool
    ) -> Steps[FunctionError | None]:
        """Send the request, and listen until the function has answered or ended.

        Returns the error to kill the function for, or None.
        """
        if instance.failure is not None:
            return instance.failure
        self._cold = not instance.ready
        if len(instance.collector.entries) * _SHORT > LIGHT:
            yield BLOCKING
        self._log.add(instance.collector.entries)
        instance.send_request(payload, self._request.request_id, last=last)
        if instance.container.sending:
            yield BLOCKING  # `receive` sends the rest, and a loop calls it only for output
        if not self._cold:
            self._ready_at = self._served_at
        elif self.deployment.function.interface == "stdio":
            # A script does not tell when it has booted.
            self._ready_at = time.monotonic()
        try:
            yield from self._listen(instance)
        except TimeoutError:
            return self._out_of_time(instance)
        except LimitExceeded as exceeded:
            return flood_error(exceeded.limit, instance.limits, observed=exceeded.observed)
        finally:
            self._answered_at = time.monotonic()
        return None

    def _listen(self, instance: Instance) -> Steps[None]:
        deadline = self.deadline
        heard, light = 0, True
        while not instance.ended and not instance.collector.settled:
            if self._ready_at is None and instance.ready:
                self._ready_at = time.monotonic()
            if instance.collector.complete:
                deadline = min(deadline, time.monotonic() + _LINGER_SECONDS)
            booting = self._ready_at is None
            until = min(deadline, instance.boot_deadline) if booting else deadline
            try:
                chunk = yield Receive(instance.container, until)
            except TimeoutError:
                if instance.collector.complete:
                    return  # the function has closed its stderr: nothing more comes
                raise
            heard += 0 if chunk is None else max(len(chunk.data), _SHORT)
            if light and heard > LIGHT:
                light = False
                yield BLOCKING
            began = time.thread_time()
            entries = instance.feed(chunk)
            self._log.add(entries)
            # A large answer is work too, but no flood: its caller should not have to wait.
            if not light and (entries or instance.collector.spoiled):
                self._rest(time.thread_time() - began, instance.collector.filled)

    def _rest(self, worked: float, filled: float) -> None:
        """Leave the interpreter to other threads after `worked` seconds of work on a flood.

        The flood waits in its pipe. The nearer a function is to its caps, the longer the rest.
        """
        left = max(self.deadline - time.monotonic(), 0.0)
        time.sleep(min(_LONGEST_REST * filled * worked, left))

    def _out_of_time(self, instance: Instance) -> FunctionError:
        now = time.monotonic()
        collector = instance.collector
        if collector.init_error is not None:
            return collector.init_error
        if self._ready_at is None and now < self.deadline:
            return boot_timeout_error(
                instance.limits.boot, observed=now - instance.started_at, spent=self._spent(now)
            )
        return timeout_error(
            self.time_limit,
            observed=now - self._asked_at,
            answered=collector.answered,
            spent=self._spent(now),
        )

    def _spent(self, until: float) -> Spent:
        ready_at = until if self._ready_at is None else self._ready_at
        return Spent(
            queue=self._served_at - self._asked_at,
            boot=ready_at - self._served_at,
            run=until - ready_at,
        )

    def drain(self, instance: Instance) -> None:
        """Read the last of the log of a function that is being killed."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while not instance.ended:
            try:
                self._log.add(instance.receive(deadline))
            except TimeoutError:
                return
            except LimitExceeded:
                continue

    def answered(self, instance: Instance) -> Steps[FunctionResponse]:
        """The response of a function that answered or ended by itself."""
        collector = instance.collector
        parsed = collector.finish()
        if self.cancellation.cancelled and not parsed.well_formed:
            return self._response(instance, parsed, cancelled_error())
        if parsed.well_formed:
            self.went_well = not instance.ended and not collector.spoiled
            return self._response(instance, parsed, parsed.error)
        if collector.init_error is not None:
            return self._response(instance, parsed, collector.init_error)
        report = collector.report
        if report is not None and report.ended:
            death = death_from(report)
        else:
            # Init was killed too, or is missing: only the engine knows how the container ended.
            yield BLOCKING
            ended = instance.wait()
            death = death_from(None, exit_code=ended.exit_code, oom_killed=ended.oom_killed)
        error = death_error(
            death,
            self.deployment.policy,
            phase="boot" if self._ready_at is None else "run",
            invalid=parsed.error,
            logs=parsed.logs,
        )
        return self._response(instance, parsed, error)

    def killed(self, instance: Instance, error: FunctionError) -> FunctionResponse:
        """The response of a function that was stopped for `error`."""
        return self._response(instance, instance.collector.finish(), error)

    def late(self) -> FunctionResponse:
        """The response where no container was made until the deadline."""
        now = time.monotonic()
        return self.unserved(
            timeout_error(
                self.time_limit,
                observed=now - self._asked_at,
                answered=False,
                spent=self._spent(now),
            )
        )

    def unserved(self, error: FunctionError) -> FunctionResponse:
        """The response where no container was ever asked."""
        now = time.monotonic()
        spent = self._spent(now)
        return FunctionResponse(
            request_id=self._request.request_id,
            success=False,
            error=error,
            duration_ms=_milliseconds(now - self._asked_at),
            stats=Stats(
                queue_ms=_milliseconds(spent.queue),
                boot_ms=_milliseconds(spent.boot),
                runtime_class=self.deployment.runtime_class,
                version=self.deployment.bundle.digest,
            ),
        )

    def _response(
        self, instance: Instance, parsed: Parsed, error: FunctionError | None
    ) -> FunctionResponse:
        # Some entries come only with the response, such as those in a stdio function's document.
        logs = parsed.logs
        report = instance.collector.report
        network = instance.gateway.stats()
        if report is not None:
            names = [name for name in report.denied if name not in instance.baseline.denied]
            more = report.denied_more - instance.baseline.denied_more
            network = with_names(network, names, self.deployment.policy.network, more=more)
        network = self._log.redactor.network(network)
        denied = denied_entry(network)
        if denied is not None:
            logs = (*logs, denied)
        self._log.add(logs[len(self._log.entries) :])
        now = time.monotonic()
        spent = self._spent(self._answered_at or now)
        hits = limits_touched(report, self.deployment.policy, error, logs, network)
        self.went_well = self.went_well and not hits
        cpu, peak = _used(report, instance)
        return FunctionResponse(
            request_id=self._request.request_id,
            success=error is None,
            output=parsed.output if error is None else None,
            error=None if error is None else self._log.redactor.error(error),
            logs=tuple(self._log.entries),
            duration_ms=_milliseconds(now - self._asked_at),
            stats=Stats(
                cold=self._cold,
                queue_ms=_milliseconds(spent.queue),
                boot_ms=_milliseconds(spent.boot),
                run_ms=_milliseconds(spent.run),
                cpu_ms=cpu,
                peak_memory_bytes=peak,
                runtime_class=self.deployment.runtime_class,
                version=self.deployment.bundle.digest,
                limits_hit=hits,
                network=network,
            ),
            answered=parsed.well_formed and error is parsed.error,
        )


def cancelled_error() -> FunctionError:
    """CANCELLED: the caller no longer wants a response."""
    return FunctionError(code=Code.CANCELLED, message="the caller cancelled it")


def _used(report: Report | None, instance: Instance) -> tuple[float | None, int | None]:
    """CPU time in milliseconds, and peak memory in bytes, of this request.

    Init measures the whole container; where it cannot, the bootstrap reports its own process.
    """
    told = instance.collector.usage
    cpu = told.cpu_ms if told else None
    peak = told.peak_memory_bytes if told else None
    if report is not None and report.cpu_ms:
        cpu = round(report.cpu_ms - (instance.baseline.cpu_ms or 0.0), 3)
    if report is not None and report.peak_memory_bytes:
        peak = report.peak_memory_bytes
    return cpu, peak


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
