"""What goes into an invocation and what comes out: the documents of the contract, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

Level = Literal["debug", "info", "warn", "error"]
JsonObject = dict[str, Any]


def timestamp_now() -> str:
    """The time as the contract writes it: UTC, RFC 3339, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _FromOutside(BaseModel):
    """What callers hand in: checked, frozen; a field nobody knows is an error."""

    # Most invocations have neither a caller nor files; then nothing is built for them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class AuthContext(_FromOutside):
    """Who calls the function. Claims beyond the named ones are passed on as they are."""

    model_config = ConfigDict(extra="allow")

    id: str
    email: str | None = None
    role: str | None = None
    verified: bool = False
    metadata: JsonObject = Field(default_factory=dict)


class FileUpload(_FromOutside):
    """One uploaded file, an element of `input._files`. `data` is base64, `size` is in bytes."""

    name: str
    filename: str
    content_type: str
    size: Annotated[int, Field(ge=0)]
    data: str


@dataclass(frozen=True, kw_only=True)
class FunctionContext:
    """What surrounds a request: caller, environment, and the way back to Alyx."""

    auth: AuthContext | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    alyx_url: str = ""
    internal_token: str = ""

    def to_dict(self) -> JsonObject:
        """The context as it stands in the request document; `auth` is null for anonymous calls."""
        return {
            "auth": None if self.auth is None else self.auth.model_dump(),
            "env": dict(self.env),
            "alyx_url": self.alyx_url,
            "internal_token": self.internal_token,
        }


@dataclass(frozen=True, kw_only=True)
class FunctionRequest:
    """One request, as it goes to the function's stdin."""

    request_id: str
    function: str
    input: JsonObject = field(default_factory=dict)
    context: FunctionContext = field(default_factory=FunctionContext)


class _Document:
    """A value that is a part of the response document."""

    def to_dict(self) -> JsonObject:
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    """A field's value for JSON. What a function wrote is that already."""
    if isinstance(value, _Document):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, kw_only=True)
class LogEntry(_Document):
    """One line of a function's log."""

    level: Level = "info"
    message: str
    data: JsonObject | None = None
    timestamp: str = field(default_factory=timestamp_now)

    def to_dict(self) -> JsonObject:
        """The fields as JSON values, which all of them are: there can be many entries."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class FunctionError(_Document):
    """Why a function failed: a code of the contract (see `sandbox.errors.Code`) or its own."""

    code: str
    message: str
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LimitHit(_Document):
    """A limit that was touched: its value, what was seen, and the key that raises it."""

    setting: str
    limit: float
    observed: float | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkAllowed(_Document):
    """A destination that was reached, or would have been: `failed` connections came to nothing.

    `failure` is the reason of the last of them. Bytes are counted as the function sees them.
    """

    destination: str
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    failed: int = 0
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkDenied(_Document):
    """A destination that was refused, why, and how often. Only a name where no port was seen."""

    destination: str
    reason: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class NetworkStats(_Document):
    """What an invocation did with its network, as the gateway saw it."""

    allowed: tuple[NetworkAllowed, ...] = ()
    denied: tuple[NetworkDenied, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stats(_Document):
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
    network: NetworkStats | None = None


@dataclass(frozen=True, kw_only=True)
class FunctionResponse:
    """The outcome of one invocation: `output` on success, `error` otherwise.

    `answered` tells the function's own word from what the platform says of it: a function may
    answer with an error of any code. It is no part of the document.
    """

    request_id: str
    success: bool
    output: Any = None
    error: FunctionError | None = None
    logs: tuple[LogEntry, ...] = ()
    duration_ms: float = 0.0
    stats: Stats = field(default_factory=Stats)
    answered: bool = False

    def to_dict(self) -> JsonObject:
        """The response document of the contract; `output` only on success, else `error`."""
        outcome = {"output": self.output} if self.error is None else {"error": self.error.to_dict()}
        return {
            "request_id": self.request_id,
            "success": self.success,
            **outcome,
            "logs": [entry.to_dict() for entry in self.logs],
            "duration_ms": self.duration_ms,
            "stats": self.stats.to_dict(),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """The response document as JSON text that is always valid UTF-8."""
        return dump_json(self.to_dict(), indent=indent)


def _encoder(indent: int | None) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=False, indent=indent, allow_nan=False)


# Made once: `json.dumps` would make one each time.
_COMPACT: Final = _encoder(None)


def dump_json(value: object, *, indent: int | None = None) -> str:
    """JSON text of `value`; non-ASCII text stays readable unless it could not be encoded.

    A JSON document may carry a lone surrogate as an escape, which no UTF-8 text can hold.
    """
    encoder = _COMPACT if indent is None else _encoder(indent)
    text = encoder.encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, indent=indent, allow_nan=False)
    return text
