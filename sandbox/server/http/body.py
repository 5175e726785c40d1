"""Reads the body of a request, JSON or a multipart form, with limits of size, number and time.

Nothing is written to disk. A body that is too large is refused before it is read if the request
says its length, otherwise as soon as it is too long.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from sandbox.errors import InvalidRequestError
from sandbox.protocol.input import file_upload, parse_input
from sandbox.units import format_size

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from starlette.datastructures import FormData
    from starlette.requests import Request

MOST_FILES: Final = 100
MOST_FIELDS: Final = 1000
# The platform sets these fields of the input, so a form may not have them.
_RESERVED: Final = frozenset({"_files", "_request"})
# A body has `patience` seconds, and one second more for so many bytes.
_SLOWEST: Final = 4096
# Closes the connection with the answer, so that the rest of the body is not read.
_CLOSE: Final = {"Connection": "close"}
# The last boundary of a form is in so many last bytes of the body, whatever follows it.
_EPILOGUE: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Body:
    """The input of an invocation, and the files that came with it."""

    input: dict[str, Any]
    files: Sequence[Mapping[str, Any]] = ()


async def read_input(request: Request, *, most: int, patience: float) -> Body:
    """The input in a request: from a JSON object, a form, or no body at all.

    `most` is in bytes; `patience`, in seconds, is the longest wait for the next part.

    Raises:
        InvalidRequestError: the body is not a JSON object, or the form cannot be read.
        HTTPException: 408 too slow, 413 too large, 415 neither JSON nor a form, or compressed.
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, most=most, patience=patience)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "send application/json or multipart/form-data",
            _CLOSE,
        )
    data = await read_body(request, most=most, patience=patience)
    return Body(input=parse_input(data) if data else {})


async def read_body(request: Request, *, most: int, patience: float) -> bytes:
    """The whole body. Raises as `read_input` does."""
    return b"".join([chunk async for chunk in _chunks(request, most=most, patience=patience)])


async def _chunks(request: Request, *, most: int, patience: float) -> AsyncGenerator[bytes, None]:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without an encoding", _CLOSE
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > most:
        raise _too_large(most)
    # Not `request.stream()`: it awaits three times for a body that has come, each with a timer.
    size, begin, more = 0, time.monotonic(), True
    while more:
        slowest = begin + patience + size / _SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(min(patience, slowest)):
                message = await request.receive()
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT, "the body comes too slowly", _CLOSE
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        yield chunk


class _InMemory(MultiPartParser):
    """Keeps files in memory, however large: `_chunks` limits the size of the body."""

    spool_max_size = 1 << 62


async def _read_form(request: Request, *, most: int, patience: float) -> Body:
    end = _End(_chunks(request, most=most, patience=patience))
    parser = _InMemory(
        request.headers,
        end.chunks(),
        max_files=MOST_FILES,
        max_fields=MOST_FIELDS,
        max_part_size=most,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"the form cannot be read: {error.message}") from None
    except (KeyError, UnicodeDecodeError, LookupError):
        raise InvalidRequestError("the form cannot be read: a header in it is broken") from None
    try:
        if not end.closes(request.headers["content-type"]):
            raise InvalidRequestError("the form cannot be read: its end is missing")
        return await _body_of(form)
    finally:
        await form.close()


class _End:
    """The last bytes of a form. The parser does not notice if a form is cut off."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks
        self._last = b""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The chunks of the body, which pass unchanged."""
        async for chunk in self._chunks:
            self._last = (self._last + chunk)[-_EPILOGUE:]
            yield chunk

    def closes(self, content_type: str) -> bool:
        """Whether the form's last boundary is there."""
        _, options = parse_options_header(content_type)
        return b"--%s--" % options.get(b"boundary", b"") in self._last


async def _body_of(form: FormData) -> Body:
    fields: dict[str, list[str]] = {}
    files = []
    for name, value in form.multi_items():
        if name in _RESERVED:
            raise InvalidRequestError(f"no field of a form may be called {name}")
        if isinstance(value, UploadFile):
            files.append(
                file_upload(
                    name=name,
                    filename=value.filename or "",
                    content_type=value.content_type or "application/octet-stream",
                    content=await value.read(),
                )
            )
        else:
            fields.setdefault(name, []).append(value)
    return Body(
        input={
            name: several if len(several) > 1 else several[0] for name, several in fields.items()
        },
        files=files,
    )


def _too_large(most: int) -> HTTPException:
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {format_size(most)}",
        _CLOSE,
    )
