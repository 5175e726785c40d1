"""The documents of the contract: requests, responses and their parts."""

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
    """The current time as the contract writes it: UTC, RFC 3339, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _FromOutside(BaseModel):
    """A value from a caller: validated and frozen. An unknown field is an error."""

    # Most invocations have neither a caller nor files, so the validators are built when needed.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class AuthContext(_FromOutside):
    """The caller of a function. Further claims are passed on unchanged."""

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
    """The `context` of a request: caller, environment, and Alyx's address and token."""

    auth: AuthContext | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    alyx_url: str = ""
    internal_token: str = ""

    def to_dict(self) -> JsonObject:
        """The `context` of the request document; `auth` is null for anonymous calls."""
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
    """A part of the response document."""

    def to_dict(self) -> JsonObject:
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    """A field's value as a JSON value. Values that a function wrote already are."""
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
        """The fields, all JSON values already: quicker than `_plain` for long logs."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class FunctionError(_Document):
    """Why a function failed: a code of the contract (see `sandbox.errors.Code`) or its own."""

    code: str
    message: str
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LimitHit(_Document):
    """A limit that was reached: its value, the observed value, and the setting that raises it."""

    setting: str
    limit: float
    observed: float | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkAllowed(_Document):
    """An allowed destination: successful and `failed` connections, and bytes in both directions.

    `failure` is the reason of the last failed connection.
    """

    destination: str
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    failed: int = 0
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkDenied(_Document):
    """A refused destination, the reason, and how often. A name alone if it was only looked up."""

    destination: str
    reason: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class NetworkStats(_Document):
    """The connections of an invocation, as the gateway counted them."""

    allowed: tuple[NetworkAllowed, ...] = ()
    denied: tuple[NetworkDenied, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stats(_Document):
    """Measurements of an invocation. Times are in milliseconds; None if it was not measured."""

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

    `answered` is true if the function itself wrote the response: it may use any error code, also
    one of the platform. It is not part of the document.
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
    """JSON text of `value`. Non-ASCII characters stay readable, except lone surrogates.

    JSON can hold a lone surrogate as an escape; UTF-8 cannot hold it at all.
    """
    encoder = _COMPACT if indent is None else _encoder(indent)
    text = encoder.encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, indent=indent, allow_nan=False)
    return text
