"""`Call`: a caller's request to run a function, from any source.

Light, so that the client of the local socket can import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# `local`: `sandbox invoke`, through the socket of a server on the same machine.
Trigger = Literal["http", "route", "webhook", "schedule", "local"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request to run a function once.

    All fields are JSON values, so that a call can be sent, stored and digested as it is: `files`
    are documents of `FileUpload`, `auth` one of `AuthContext`. `timeout`, in seconds, replaces the
    function's own, up to the operator's ceiling. `caller` is the caller's id, which the
    execution records. Without a `request_id`, the invocation gets a new one. `traceparent` is the
    header of W3C Trace Context.
    """

    function: str
    input: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Mapping[str, Any]] = field(default_factory=list)
    auth: Mapping[str, Any] | None = None
    timeout: float | None = None
    caller: str = "anonymous"
    trigger: Trigger = "http"
    request_id: str | None = None
    traceparent: str | None = None
