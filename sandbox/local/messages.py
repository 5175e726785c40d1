"""The messages between client and server: JSON documents, one on a line. No I/O here.

    server  hello      the version of the protocol, and how large a request may be
    client  invoke     a `Call`
    server  log        each log entry, as it comes
    server  response   the response document; or
            failure    an error of the platform

Then the server hangs up. If the client hangs up first, the invocation is cancelled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Final

from sandbox.call import Call
from sandbox.errors import InternalError, OverloadedError, SandboxError

PROTOCOL: Final = 1
# How much a message may have besides its request, which is JSON with uploads in base64.
ENVELOPE_BYTES: Final = 64 * 1024


class MessageError(Exception):
    """A line is no message of this protocol."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The server's greeting. `max_request` is its `limits.request`, in bytes."""

    protocol: int = PROTOCOL
    max_request: int


@dataclass(frozen=True, kw_only=True)
class LogMessage:
    """One log entry: level, message, data, timestamp."""

    entry: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Response:
    """The response document, as the text to print."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of the platform: the contents of a `SandboxError`."""

    code: str
    message: str
    hint: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


Message = Hello | Call | LogMessage | Response | Failure

_NAMES: Final[dict[type[Message], str]] = {
    Hello: "hello",
    Call: "invoke",
    LogMessage: "log",
    Response: "response",
    Failure: "failure",
}
_TYPES: Final = {name: kind for kind, name in _NAMES.items()}
_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "int": int,
    "str": str,
    "str | None": (str, type(None)),
    "float | None": (float, int, type(None)),
    "Trigger": str,
    "dict[str, Any]": dict,
    "Mapping[str, Any]": dict,
    "Mapping[str, Any] | None": (dict, type(None)),
    "Sequence[Mapping[str, Any]]": list,
}


def encode(message: Message) -> bytes:
    """The message as one line. ASCII only, so that lone surrogates stay escapes."""
    document = {item.name: getattr(message, item.name) for item in fields(message)}
    text = json.dumps({"type": _NAMES[type(message)], **document}, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """The message on a line.

    Raises:
        MessageError: it is no message, or one of another version of the protocol.
    """
    try:
        document = json.loads(line)
        kind = _TYPES[document.pop("type")]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise MessageError("no message of this protocol") from None
    expected = {item.name: _KINDS[str(item.type)] for item in fields(kind)}
    for name, value in document.items():
        if name not in expected or not isinstance(value, expected[name]):
            raise MessageError(f"{_NAMES[kind]} with a bad field: {name!r}")
    try:
        message = kind(**document)
    except TypeError:
        raise MessageError(f"{_NAMES[kind]} without a field") from None
    if isinstance(message, Hello) and message.protocol != PROTOCOL:
        raise MessageError(f"protocol {message.protocol}, not {PROTOCOL}")
    return message


class LineReader:
    """Splits a stream into lines of at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their ends.

        Raises:
            MessageError: a line is longer than it may be.
        """
        self._rest += data
        lines = []
        while (end := self._rest.find(b"\n", self._searched)) >= 0:
            lines.append(bytes(self._rest[:end]))
            del self._rest[: end + 1]
            self._searched = 0
        self._searched = len(self._rest)
        if self._searched > self._most or any(len(line) > self._most for line in lines):
            raise MessageError(f"a line of more than {self._most} bytes")
        return lines


def failure_from(error: SandboxError) -> Failure:
    """An error as a message."""
    return Failure(
        code=str(error.code), message=error.message, hint=error.hint, details=error.details
    )


def error_from(failure: Failure) -> SandboxError:
    """The error in a message, of the class that it had."""
    for kind in SandboxError.__subclasses__():
        if kind.code != failure.code:
            continue
        if issubclass(kind, OverloadedError):
            retry_after = float(failure.details.get("retry_after", 1.0))
            return kind(failure.message, retry_after=retry_after, hint=failure.hint)
        return kind(failure.message, hint=failure.hint, details=failure.details)
    return InternalError(failure.message, hint=failure.hint, details=failure.details)
