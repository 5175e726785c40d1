"""A server in this process, and something for it to invoke that tests control."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.errors import FunctionNotFoundError
from sandbox.local.address import Address
from sandbox.local.server import LocalServer
from sandbox.models import FunctionError, FunctionResponse, LogEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.cancellation import Cancellation

PATIENCE = 30.0


class Invocations:
    """Stands for `Sandbox.invoke`: `echo` answers with what it was given, `wait` on demand."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.may_end = threading.Event()

    def __call__(
        self, name: str, input: Any, /, *, on_log: Any, cancellation: Cancellation, **options: Any
    ) -> FunctionResponse:
        if name == "broken":
            raise ZeroDivisionError("division by zero")
        if name not in ("echo", "wait", "chatty"):
            raise FunctionNotFoundError(
                f"there is no function {name!r}", hint="look", details={"near": []}
            )
        on_log(LogEntry(level="warn", message="first \ud800\nline", data={"n": 1}))
        if name == "chatty":
            while not cancellation.cancelled:
                on_log(LogEntry(message="x" * 10_000))
        if name == "wait":
            self.started.set()
            cancellation.on_cancel(self.may_end.set)
            self.may_end.wait()
        if cancellation.cancelled:
            self.cancelled.set()
            error = FunctionError(code="CANCELLED", message="the caller went away")
            return FunctionResponse(request_id="r", success=False, error=error)
        files = [file.model_dump() for file in options.pop("files")]
        return FunctionResponse(
            request_id=options["request_id"] or "made",
            success=True,
            output={"input": input, "files": files, **options},
        )


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
            options.setdefault("max_request", 1_000_000)
            server = LocalServer(address, invocations, **options)
            stack.callback(server.close)
            return server

        yield start
