"""Checks what callers hand in, and encodes the request for a function's stdin."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from sandbox.errors import InvalidRequestError
from sandbox.models import AuthContext, FileUpload
from sandbox.protocol.json_values import MAX_DEPTH, exceeds_depth
from sandbox.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.call import Call
    from sandbox.models import FunctionRequest, JsonObject

M = TypeVar("M", bound=BaseModel)

# Made once: `json.dumps` would make one each time.
_COMPACT: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
# The end of a document without a token. `internal_token` is the last of its values.
_NO_TOKEN: Final = b'"internal_token":""}}\n'


def parse_auth(auth: AuthContext | Mapping[str, Any]) -> AuthContext:
    """The identity of a caller, as a trusted caller states it.

    Raises:
        InvalidRequestError: a field is missing or of the wrong type.
    """
    return _validated(AuthContext, auth, "auth")


def check_call(call: Call) -> None:
    """Check the identity and the files of a call that came from outside.

    Raises:
        InvalidRequestError: a field is missing or of the wrong type.
    """
    if call.auth is not None:
        parse_auth(call.auth)
    for number, file in enumerate(call.files):
        _validated(FileUpload, file, f"files.{number}")


def _validated(model: type[M], value: object, name: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]))
        raise InvalidRequestError(f"{place}: {first['msg']}") from None


def encode_request(request: FunctionRequest, *, max_bytes: int) -> bytes:
    """The request document as one line of JSON, for the function's stdin.

    It is ASCII, so a lone surrogate in a caller's text stays the escape that it was.

    Raises:
        InvalidRequestError: a value has no form in JSON, or it is too deep or too large.
    """
    document = {
        "request_id": request.request_id,
        "function": request.function,
        "input": request.input,
        "context": request.context.to_dict(),
    }
    try:
        text = _COMPACT.encode(document)
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        reason = _unwritable(document) or str(error).partition(";")[0]
        raise InvalidRequestError(f"the input cannot be written as JSON: {reason}") from None
    encoded = text.encode("ascii") + b"\n"
    # The input is one level down.
    if exceeds_depth(encoded, MAX_DEPTH + 1):
        raise _too_deep()
    if len(encoded) > max_bytes:
        raise InvalidRequestError(
            f"the request is {format_size(len(encoded))}; the most is {format_size(max_bytes)}",
            hint="send less, or have the operator raise `limits.request`",
            details={"limit": max_bytes, "observed": len(encoded), "setting": "limits.request"},
        )
    return encoded


def add_token(encoded: bytes, token: str) -> bytes:
    """An encoded request with `token` as its internal token.

    The request is checked first; the token is made when the invocation begins.
    """
    if not token:
        return encoded
    before = encoded.removesuffix(_NO_TOKEN)
    assert len(before) < len(encoded)  # noqa: S101 - `encode_request` wrote it
    return b'%s"internal_token":%s}}\n' % (before, json.dumps(token).encode("ascii"))


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"the input is nested deeper than {MAX_DEPTH} levels")


def _unwritable(document: JsonObject) -> str:
    """Which value in `document` has no form in JSON, and where; "" if all have one."""
    seen: set[int] = set()
    rest: list[tuple[str, Any]] = list(document.items())
    while rest:
        place, value = rest.pop()
        if isinstance(value, dict | list | tuple):
            # A value may contain itself.
            if id(value) not in seen:
                seen.add(id(value))
                items = value.items() if isinstance(value, dict) else enumerate(value)
                rest += [(f"{place}[{key!r}]", item) for key, item in items]
        elif isinstance(value, float):
            if not math.isfinite(value):
                return f"{place} is {value}"
        elif not isinstance(value, str | int | None):
            return f"{place} is of type {type(value).__name__}"
    return ""
