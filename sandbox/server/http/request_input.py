"""An HTTP request as the input of a function: its body, and the request itself as `_request`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sandbox.protocol.input import parse_input
from sandbox.protocol.json_values import JSONValueError, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

# Credentials are for the server only. Functions do not get them.
_WITHHELD: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "x-alyx-auth"}
)


def raw_path(request: Request) -> str:
    """The path as the client sent it, percent-encoded, without the query."""
    raw = request.scope.get("raw_path")
    return raw.decode("latin-1") if raw else quote(request.scope["path"])


def request_document(request: Request, params: Mapping[str, str]) -> dict[str, Any]:
    """`_request`: the method, the path, the parameters of the path, the query and the headers.

    A parameter that the query has several times is a list. Names of headers are in lower case.
    """
    query: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        query[name] = values[0] if len(values) == 1 else values
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        if name not in _WITHHELD:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return {
        "method": request.method,
        "path": request.scope["path"],
        "params": dict(params),
        "query": query,
        "headers": headers,
    }


def body_as_input(data: bytes, content_type: str) -> dict[str, Any]:
    """A body as input: a JSON object is the input itself, any other body its `body`.

    A body that is neither JSON nor text is in base64, and the input has `base64: true`.

    Raises:
        InvalidRequestError: the media type is JSON, but the body is not.
    """
    if not data:
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = loads(data)
        except JSONValueError:
            return parse_input(data)  # says what is wrong
        return value if isinstance(value, dict) else {"body": value}
    try:
        return {"body": data.decode()}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(data).decode("ascii"), "base64": True}
