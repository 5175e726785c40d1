"""Decodes Docker's attach stream: bytes in, chunks out, no sockets.

Each frame is a header of eight bytes (stream type, three zeros, big-endian length) and its
payload. Rules: a payload is passed on as it arrives, so at most a header is buffered; a frame of
length zero is ignored; an invalid header ends the stream with an error.
https://docs.docker.com/engine/api/v1.41/#operation/ContainerAttach
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandbox.engine.base import Chunk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.engine.base import StreamName

_HEADER_SIZE: Final = 8
# Type 0 is stdin, which an engine never sends back to us, but the format allows for it.
_STREAMS: Final[Mapping[int, StreamName]] = {0: "stdout", 1: "stdout", 2: "stderr"}


class ProtocolError(Exception):
    """The other side does not speak the protocol."""


class FrameDecoder:
    """Turns the bytes of an attach stream, in pieces of any size, into chunks."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream: StreamName = "stdout"
        self._remaining = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks in `data`, after the rest of earlier data.

        Raises:
            ProtocolError: the bytes are no frames.
        """
        chunks = []
        position = 0
        while position < len(data):
            if self._remaining:
                payload = data[position : position + self._remaining]
                chunks.append(Chunk(self._stream, payload))
                self._remaining -= len(payload)
                position += len(payload)
                continue
            missing = _HEADER_SIZE - len(self._header)
            self._header += data[position : position + missing]
            position += missing
            if len(self._header) == _HEADER_SIZE:
                self._begin_frame()
        return chunks

    def _begin_frame(self) -> None:
        kind, padding, length = self._header[0], self._header[1:4], self._header[4:]
        if kind not in _STREAMS or any(padding):
            raise ProtocolError(f"not a frame of an attach stream: {bytes(self._header)!r}")
        self._stream = _STREAMS[kind]
        self._remaining = int.from_bytes(length, "big")
        self._header.clear()
