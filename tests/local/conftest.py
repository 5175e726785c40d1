"""A server in this process, and something for it to invoke that tests control."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.engine.steps import BLOCKING
from sandbox.errors import FunctionNotFoundError
from sandbox.local.address import Address
from sandbox.local.server import ClientLimits, LocalServer
from sandbox.models import FunctionError, FunctionResponse, LogEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.call import Call
    from sandbox.cancellation import Cancellation
    from sandbox.engine.steps import Steps

PATIENCE = 30.0


class Invocations:
    """Stands for a `Sandbox`: `echo` answers with its call, `wait` on demand."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.may_end = threading.Event()

    def steps(self, call: Call, **options: Any) -> Steps[FunctionResponse]:
        if call.function not in ("broken", "echo", "wait", "chatty"):
            raise FunctionNotFoundError(
                f"there is no function {call.function!r}", hint="look", details={"near": []}
            )
        return self._steps(call, **options)

    def _steps(
        self, call: Call, *, on_log: Any, cancellation: Cancellation
    ) -> Steps[FunctionResponse]:
        yield BLOCKING
        if call.function == "broken":
            raise ZeroDivisionError("division by zero")
        on_log(LogEntry(level="warn", message="first \ud800\nline", data={"n": 1}))
        if call.function == "chatty":
            while not cancellation.cancelled:
                on_log(LogEntry(message="x" * 10_000))
        if call.function == "wait":
            self.started.set()
            cancellation.on_cancel(self.may_end.set)
            self.may_end.wait()
        if cancellation.cancelled:
            self.cancelled.set()
            error = FunctionError(code="CANCELLED", message="the caller went away")
            return FunctionResponse(request_id="r", success=False, error=error)
        request_id = call.request_id or "made"
        return FunctionResponse(request_id=request_id, success=True, output=asdict(call))


@pytest.fixture
def invocations() -> Invocations:
    return Invocations()


@pytest.fixture
def address(tmp_path: Path) -> Address:
    # Longer than a socket's address may be.
    return Address(tmp_path / ("deep" * 30) / "sockets", "0" * 32)


@pytest.fixture
def serve(address: Address, invocations: Invocations) -> Iterator[Callable[..., LocalServer]]:
    """`serve()` starts a server at `address`."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> LocalServer:
            is_current = options.pop("is_current", lambda: True)
            limits = ClientLimits(**{"request": 1_000_000, **options})
            server = LocalServer(address, invocations, limits=limits, is_current=is_current)
            stack.callback(server.close)
            return server

        yield start
