"""All error codes and exceptions.

A failure of a *function* is a result: a `FunctionResponse` with `success: false` and one of the
codes below. A failure of the *platform* is an exception, one of:

    SandboxError
    ├── InvalidRequestError        INVALID_REQUEST         the caller's input cannot be used
    ├── UnauthenticatedError       UNAUTHENTICATED         the caller is not authenticated
    ├── ForbiddenError             FORBIDDEN               the caller may not do that
    ├── FunctionNotFoundError      FUNCTION_NOT_FOUND      no function of that name
    ├── InvalidManifestError       INVALID_MANIFEST        the function's manifest has problems
    ├── InvalidSettingsError       INVALID_SETTINGS        the operator's settings have problems
    ├── PolicyRefusedError         POLICY_REFUSED          the operator's settings do not allow it
    ├── OverloadedError            OVERLOADED              no capacity within the deadline
    ├── RuntimeNotAvailableError   RUNTIME_NOT_AVAILABLE   the runtime's image is missing or stale
    ├── EngineUnavailableError     ENGINE_UNAVAILABLE      the container engine cannot be reached
    ├── DatabaseUnavailableError   DATABASE_UNAVAILABLE    the server's database cannot be used
    └── InternalError              INTERNAL                a defect of ours

Each carries `code`, `exit_code` (of the command line) and `http_status`, all read from `CODES`.

A function that cannot be put into service has no response: `Sandbox.build` and `Sandbox.prepare`
raise a `DeploymentFailedError`, either a `BuildFailedError` or a `BootFailedError`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Code(enum.StrEnum):
    """The error codes of the contract; a function may answer with codes of its own."""

    FUNCTION_ERROR = "FUNCTION_ERROR"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    INVALID_RESPONSE = "INVALID_RESPONSE"
    FUNCTION_CRASHED = "FUNCTION_CRASHED"
    INIT_FAILED = "INIT_FAILED"
    BUILD_FAILED = "BUILD_FAILED"
    CANCELLED = "CANCELLED"
    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    FUNCTION_NOT_FOUND = "FUNCTION_NOT_FOUND"
    INVALID_MANIFEST = "INVALID_MANIFEST"
    INVALID_SETTINGS = "INVALID_SETTINGS"
    POLICY_REFUSED = "POLICY_REFUSED"
    OVERLOADED = "OVERLOADED"
    RUNTIME_NOT_AVAILABLE = "RUNTIME_NOT_AVAILABLE"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    INTERNAL = "INTERNAL"


class ExitCode(enum.IntEnum):
    """Exit codes of the command line."""

    SUCCESS = 0
    FUNCTION_FAILED = 1
    USAGE = 2
    PLATFORM = 3
    # The shell's convention for an end by Ctrl-C (128 + SIGINT).
    INTERRUPTED = 130


@dataclass(frozen=True)
class CodeInfo:
    """A code's meaning, its HTTP status and its exit code."""

    meaning: str
    http_status: int
    exit_code: ExitCode


_FAILED, _USAGE, _PLATFORM = ExitCode.FUNCTION_FAILED, ExitCode.USAGE, ExitCode.PLATFORM

CODES: Final[Mapping[Code, CodeInfo]] = {
    Code.FUNCTION_ERROR: CodeInfo("the function answered with a failure", 200, _FAILED),
    Code.TIMEOUT: CodeInfo("over its time limit; killed", 504, _FAILED),
    Code.OUT_OF_MEMORY: CodeInfo(
        "killed by its memory limit, in any of its processes that took the function down",
        502,
        _FAILED,
    ),
    Code.OUTPUT_TOO_LARGE: CodeInfo(
        "its output or its logs went over the cap; killed", 502, _FAILED
    ),
    Code.INVALID_RESPONSE: CodeInfo("what it wrote to stdout is no response", 502, _FAILED),
    Code.FUNCTION_CRASHED: CodeInfo(
        "ended without a response; `details.exit_code`, `details.signal`", 502, _FAILED
    ),
    Code.INIT_FAILED: CodeInfo(
        "died, or ran out of boot time, before it could take a request", 502, _FAILED
    ),
    Code.BUILD_FAILED: CodeInfo("its build or dependency step failed; `details.log`", 502, _FAILED),
    Code.CANCELLED: CodeInfo("the caller went away", 499, _FAILED),
    Code.INVALID_REQUEST: CodeInfo("input is not an object, too large, or not JSON", 400, _USAGE),
    Code.UNAUTHENTICATED: CodeInfo(
        "the server asks for an API key or a token, and there is none that it takes", 401, _USAGE
    ),
    Code.FORBIDDEN: CodeInfo("the caller may not do that", 403, _USAGE),
    Code.FUNCTION_NOT_FOUND: CodeInfo("no such function (near names are given)", 404, _USAGE),
    Code.INVALID_MANIFEST: CodeInfo("the manifest has problems, with file and line", 422, _USAGE),
    Code.INVALID_SETTINGS: CodeInfo("the settings have problems, with file and line", 422, _USAGE),
    Code.POLICY_REFUSED: CodeInfo("the operator's settings do not allow it", 422, _USAGE),
    Code.OVERLOADED: CodeInfo("no capacity, or waiting took longer than allowed", 429, _PLATFORM),
    Code.RUNTIME_NOT_AVAILABLE: CodeInfo(
        "the runtime's image is missing; the message says which command builds it", 503, _PLATFORM
    ),
    Code.ENGINE_UNAVAILABLE: CodeInfo("the container engine cannot be reached", 503, _PLATFORM),
    Code.DATABASE_UNAVAILABLE: CodeInfo("the server's database cannot be used", 503, _PLATFORM),
    Code.INTERNAL: CodeInfo("a defect of ours; logged with its trace", 500, _PLATFORM),
}


class SandboxError(Exception):
    """A failure of the platform. `message` says what failed and where, `hint` how to fix it."""

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(
        self, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = dict(details or {})

    @property
    def http_status(self) -> int:
        return CODES[self.code].http_status

    @property
    def exit_code(self) -> ExitCode:
        return CODES[self.code].exit_code

    def to_dict(self) -> dict[str, Any]:
        """The `error` of a document: code, message and details, which include the hint."""
        details = self.details | ({"hint": self.hint} if self.hint else {})
        return {"code": self.code, "message": self.message, "details": details}

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequestError(SandboxError):
    """The caller's input is not an object, not JSON, or too large."""

    code = Code.INVALID_REQUEST


class UnauthenticatedError(SandboxError):
    """The caller is not authenticated. The message never says why its credentials failed."""

    code = Code.UNAUTHENTICATED


class ForbiddenError(SandboxError):
    """The caller is authenticated, but may not do that."""

    code = Code.FORBIDDEN


class FunctionNotFoundError(SandboxError):
    """No function of that name; `details.near` lists names that are close."""

    code = Code.FUNCTION_NOT_FOUND


class InvalidManifestError(SandboxError):
    """The function exists, and its manifest has problems; `details.problems` lists them."""

    code = Code.INVALID_MANIFEST


class InvalidSettingsError(SandboxError):
    """The operator's settings file or environment cannot be used."""

    code = Code.INVALID_SETTINGS


class PolicyRefusedError(SandboxError):
    """The manifest asks for something that the operator's settings do not allow."""

    code = Code.POLICY_REFUSED


class OverloadedError(SandboxError):
    """No capacity came free in time; `retry_after` is in seconds."""

    code = Code.OVERLOADED

    def __init__(
        self,
        message: str,
        *,
        retry_after: float,
        hint: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        more = {"retry_after": retry_after}
        super().__init__(message, hint=hint, details={**(details or {}), **more})
        self.retry_after = retry_after


class RuntimeNotAvailableError(SandboxError):
    """The runtime's image is missing or out of date; the hint names the command that builds it."""

    code = Code.RUNTIME_NOT_AVAILABLE


class EngineUnavailableError(SandboxError):
    """The container engine cannot be reached, or failed in a way that is not the function's."""

    code = Code.ENGINE_UNAVAILABLE


class DatabaseUnavailableError(SandboxError):
    """The database in which the server keeps executions cannot be reached, or is full."""

    code = Code.DATABASE_UNAVAILABLE


class InternalError(SandboxError):
    """A defect of ours. Logged with its trace; the caller sees none of it."""

    code = Code.INTERNAL


class DeploymentFailedError(Exception):
    """A version of a function cannot run, by a fault of its own; `log` is its last output."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.log = log


class BuildFailedError(DeploymentFailedError):
    """A build or an installation of dependencies failed; an invocation gives BUILD_FAILED."""


class BootFailedError(DeploymentFailedError):
    """The function ended or ran out of time before it could take a request."""
