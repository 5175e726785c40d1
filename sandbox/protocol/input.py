"""The input of an invocation, and its files. Light: the command line imports it at its start."""

from __future__ import annotations

import base64
from typing import Any

from sandbox.errors import InvalidRequestError
from sandbox.protocol.json_values import JSONValueError, loads


def parse_input(data: str | bytes) -> dict[str, Any]:
    """The input object in what a caller sent.

    Raises:
        InvalidRequestError: it is not one JSON object; says what is wrong, and where.
    """
    try:
        # A text from the command line has surrogates where its bytes were no UTF-8; those are
        # then invalid here too. Escaped ones, `\ud800`, are JSON and pass.
        value = loads(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    except JSONValueError as error:
        raise InvalidRequestError(f"the input is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"the input is {_kind(value)}, and has to be an object",
            hint='put it into one, such as {"value": …}',
        )
    return value


def file_upload(*, name: str, filename: str, content_type: str, content: bytes) -> dict[str, Any]:
    """An element of `Call.files`: a file as a document of `FileUpload`."""
    return {
        "name": name,
        "filename": filename,
        "content_type": content_type,
        "size": len(content),
        "data": base64.b64encode(content).decode("ascii"),
    }


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
