"""What goes into an invocation and what comes out: the documents of the contract, as values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["debug", "info", "warn", "error"]
JsonObject = dict[str, Any]


def timestamp_now() -> str:
    """The time as the contract writes it: UTC, RFC 3339, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Value(BaseModel):
    """A frozen value; a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AuthContext(_Value):
    """Who calls the function. Claims beyond the named ones are passed on as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    email: str | None = None
    role: str | None = None
    verified: bool = False
    metadata: JsonObject = Field(default_factory=dict)


class FunctionContext(_Value):
    """What surrounds a request: caller, environment, and the way back to Alyx."""

    auth: AuthContext | None = None
    env: dict[str, str] = Field(default_factory=dict)
    alyx_url: str = ""
    internal_token: str = ""


class FileUpload(_Value):
    """One uploaded file, an element of `input._files`. `data` is base64, `size` is in bytes."""

    name: str
    filename: str
    content_type: str
    size: Annotated[int, Field(ge=0)]
    data: str


class FunctionRequest(_Value):
    """One request, as it goes to the function's stdin."""

    request_id: str
    function: str
    input: JsonObject = Field(default_factory=dict)
    context: FunctionContext = Field(default_factory=FunctionContext)


class LogEntry(_Value):
    """One line of a function's log."""

    level: Level = "info"
    message: str
    data: JsonObject | None = None
    timestamp: str = Field(default_factory=timestamp_now)


class FunctionError(_Value):
    """Why a function failed: a code of the contract (see `sandbox.errors.Code`) or its own."""

    code: str
    message: str
    details: JsonObject = Field(default_factory=dict)


class LimitHit(_Value):
    """A limit that was touched: its value, what was seen, and the key that raises it."""

    setting: str
    limit: float
    observed: float | None = None


class Stats(_Value):
    """How an invocation ran. Times are in milliseconds; None where it could not be measured."""

    cold: bool = True
    queue_ms: float = 0.0
    boot_ms: float | None = None
    run_ms: float | None = None
    cpu_ms: float | None = None
    peak_memory_bytes: int | None = None
    runtime_class: str | None = None
    version: str | None = None
    limits_hit: tuple[LimitHit, ...] = ()


class FunctionResponse(_Value):
    """The outcome of one invocation: `output` on success, `error` otherwise."""

    request_id: str
    success: bool
    output: Any = None
    error: FunctionError | None = None
    logs: tuple[LogEntry, ...] = ()
    duration_ms: float = 0.0
    stats: Stats = Field(default_factory=Stats)

    def to_dict(self) -> JsonObject:
        """The response document of the contract; `output` only on success, else `error`."""
        document = self.model_dump(exclude={"output", "error"})
        outcome = (
            {"output": self.output} if self.error is None else {"error": self.error.model_dump()}
        )
        head = {"request_id": document.pop("request_id"), "success": document.pop("success")}
        return head | outcome | document

    def to_json(self, *, indent: int | None = None) -> str:
        """The response document as JSON text that is always valid UTF-8."""
        return dump_json(self.to_dict(), indent=indent)


def dump_json(value: object, *, indent: int | None = None) -> str:
    """JSON text of `value`; non-ASCII text stays readable unless it could not be encoded.

    A JSON document may carry a lone surrogate as an escape, which no UTF-8 text can hold.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, indent=indent, allow_nan=False)
    return text
