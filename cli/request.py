"""Makes a `Call` of the options of `invoke` and `run`.

Light: if a process already serves, the command line imports little more than this.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox.call import Call
from sandbox.errors import InvalidRequestError
from sandbox.protocol.input import file_upload, parse_input
from sandbox.units import format_size

if TYPE_CHECKING:
    from typing import BinaryIO

    from .options import RequestOptions


JsonObject = dict[str, Any]


def read_call(function: str, options: RequestOptions, *, max_bytes: int) -> Call:
    """The call that the options ask for; `auth` and `files` are not checked yet.

    Raises:
        InvalidRequestError: the input or the caller is no JSON object, or something is too large.
        click.UsageError: a file cannot be read.
    """
    return Call(
        function=function,
        input=_read_input(options.data, max_bytes),
        auth=_parse_auth(options.auth),
        files=[_read_upload(field, path, max_bytes) for field, path in options.files],
        timeout=options.timeout,
        caller="local",
        trigger="local",
    )


def auth_refused(error: InvalidRequestError) -> InvalidRequestError:
    """The error of a caller's identity, with the name of the option."""
    message = error.message.removeprefix("auth.")
    return InvalidRequestError(f"--auth: {message}", hint=error.hint)


def _read_input(data: str | None, max_bytes: int) -> JsonObject:
    """The input from the command line, from `@FILE`, or from stdin for `-`."""
    if data is None:
        return {}
    if data == "-":
        return parse_input(_read(sys.stdin.buffer, "stdin", max_bytes))
    if data.startswith("@"):
        return parse_input(_read_file(Path(data[1:]), max_bytes))
    return parse_input(data)


def _parse_auth(text: str | None) -> JsonObject | None:
    if text is None:
        return None
    try:
        return parse_input(text)
    except InvalidRequestError as error:
        raise auth_refused(error) from None


def _read_upload(field: str, path: Path, max_bytes: int) -> JsonObject:
    import mimetypes  # noqa: PLC0415 - few invocations upload files

    return file_upload(
        name=field,
        filename=path.name,
        content_type=mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        content=_read_file(path, max_bytes),
    )


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return _read(file, str(path), max_bytes)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error


def _read(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    """The whole content. Reads no more than a request may have."""
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InvalidRequestError(
            f"{name} is larger than a request may be ({format_size(max_bytes)})",
            hint="send less, or raise `limits.request` in the settings",
        )
    return content
