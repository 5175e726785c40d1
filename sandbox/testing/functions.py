"""What a fake container does that serves a function."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sandbox.errors import Code
from sandbox.models import FunctionError

if TYPE_CHECKING:
    from sandbox.engine.base import ContainerSpec
    from sandbox.testing.process import FakeProcess

Answer: TypeAlias = Callable[["FakeContext"], Any]
Boot: TypeAlias = Callable[["FakeProcess"], object]
# A method of `Engine` or of `Container`; see `sandbox.engine.base`.
Operation = Literal[
    "info", "create", "containers", "image", "start", "receive", "kill", "wait", "remove"
]


@dataclass(frozen=True, kw_only=True)
class FakeFunction:
    """How the containers of a function behave.

    `answer` runs for each request, in the thread of its container. It returns the output, or a
    `FunctionError`. An exception has the effect that it has in a real handler or script. Without
    `answer`, the output is the input.
    `boot` runs when a container starts. It may sleep, write or exit; an exception means that the
    function could not be imported.
    `failures` and `delays` (in seconds) apply to the engine's calls for these containers, by name:
    `create`, `start`, `receive`, `kill`, `wait`, `remove`.
    """

    answer: Answer | None = None
    boot: Boot | None = None
    failures: Mapping[Operation, Exception] = field(default_factory=dict)
    delays: Mapping[Operation, float] = field(default_factory=dict)


class FakeContext:
    """One request: all that a Python handler's `ctx` has, and `process`, which serves it."""

    def __init__(self, request: Mapping[str, Any], process: FakeProcess) -> None:
        context: Mapping[str, Any] = request.get("context", {})
        self.input: Any = request["input"]
        self.auth: Any = context.get("auth")
        self.env: Mapping[str, str] = context.get("env", {})
        self.request_id: str = request["request_id"]
        self.function: str = request["function"]
        self.alyx_url: str = context.get("alyx_url", "")
        self.internal_token: str = context.get("internal_token", "")
        self.log = FakeLog(process)
        self.process = process

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]


class FakeLog:
    """`ctx.log`. Each method takes a message, and data if there is any."""

    def __init__(self, process: FakeProcess) -> None:
        self.debug = partial(process.log, "debug")
        self.info = partial(process.log, "info")
        self.warn = partial(process.log, "warn")
        self.error = partial(process.log, "error")


class FunctionProgram:
    """The program of a container that serves `function`."""

    def __init__(self, function: FakeFunction, spec: ContainerSpec) -> None:
        self._answer = function.answer or (lambda ctx: ctx.input)
        self._boot = function.boot
        self._handler = "--handler" in spec.command
        self._announce = "--announce" in spec.command
        # Whether nothing in it can take long, so that no thread is needed.
        self.instant = function.answer is None and function.boot is None

    def start(self, process: FakeProcess) -> None:
        if self._boot is not None:
            try:
                self._boot(process)
            except Exception as error:  # the function's own
                process.write(_trace(error), "stderr")
                if self._handler:
                    process.write(
                        json.dumps({"type": "init_error", "error": _document(error)}) + "\n"
                    )
                process.exit(1)
        if self._handler:
            process.write('{"type":"ready"}\n')
        elif self._announce:
            process.tell({"ready": True})

    def take(self, process: FakeProcess, line: bytes) -> None:
        """A line came on stdin: a request."""
        request = json.loads(line)
        response: dict[str, Any] = {"request_id": request["request_id"], "success": True}
        try:
            output = self._answer(FakeContext(request, process))
        except Exception as error:  # the function's own
            process.write(_trace(error), "stderr")
            if not self._handler:
                process.exit(1)
            process.respond(response | {"success": False, "error": _document(error)})
            return
        if isinstance(output, FunctionError):
            process.respond(response | {"success": False, "error": output.to_dict()})
            return
        try:
            process.respond(response | {"output": output})
        except (TypeError, ValueError) as error:
            if not self._handler:
                process.write(_trace(error), "stderr")
                process.exit(1)
            unfit = TypeError(f"what the handler returned is not JSON: {error}")
            process.respond(response | {"success": False, "error": _document(unfit)})

    def end(self, process: FakeProcess) -> None:
        """Its stdin has ended."""
        process.exit()


def _document(error: Exception) -> dict[str, Any]:
    """The error of a handler that raised this; see `describe` in images/python/bootstrap.py."""
    code = getattr(error, "code", None)
    return {
        "code": code if isinstance(code, str) and code else Code.FUNCTION_ERROR,
        "message": str(error) or type(error).__name__,
        "details": getattr(error, "details", {}),
    }


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
