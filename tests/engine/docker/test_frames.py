from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engine.base import Chunk
from sandbox.engine.docker.frames import FrameDecoder, ProtocolError

frames = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=300)))


def encode(name: str, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", {"stdout": 1, "stderr": 2}[name], len(payload)) + payload


def joined(chunks: list[Chunk]) -> list[tuple[str, bytes]]:
    """Neighbours of one stream put together: how payloads are cut means nothing."""
    result: list[tuple[str, bytes]] = []
    for chunk in chunks:
        if result and result[-1][0] == chunk.stream:
            result[-1] = (chunk.stream, result[-1][1] + chunk.data)
        else:
            result.append((chunk.stream, chunk.data))
    return result


@given(frames, st.integers(min_value=1, max_value=40))
def test_however_the_stream_is_cut_the_chunks_are_the_same(
    sent: list[tuple[str, bytes]], size: int
) -> None:
    stream = b"".join(encode(name, payload) for name, payload in sent)
    decoder = FrameDecoder()
    chunks = []
    for start in range(0, len(stream), size):
        chunks += decoder.feed(stream[start : start + size])
    assert joined(chunks) == joined([Chunk(name, data) for name, data in sent if data])  # type: ignore[arg-type]


def test_ten_mebibytes_of_small_frames_at_once_are_decoded() -> None:
    stream = encode("stdout", b"x" * 24) * 327_680
    assert len(FrameDecoder().feed(stream)) == 327_680


def test_a_frame_of_length_zero_is_nothing() -> None:
    assert FrameDecoder().feed(encode("stdout", b"") + encode("stderr", b"x")) == [
        Chunk("stderr", b"x")
    ]


def test_a_payload_is_passed_on_before_its_end_has_come() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode("stdout", b"x" * 100)[:20]) == [Chunk("stdout", b"x" * 12)]


@pytest.mark.parametrize(
    "garbage", [b"\x03\0\0\0\0\0\0\1x", b"\x01\0\1\0\0\0\0\1x", b"HTTP/1.1 500"]
)
def test_what_is_no_frame_is_an_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameDecoder().feed(garbage)
