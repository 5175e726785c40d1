"""What a function writes by the million costs the host neither memory nor minutes.

The deadlines are far above what is needed; each case took half a minute or more without its
defence.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from sandbox.engine.base import Chunk
from sandbox.protocol.handler import HandlerCollector
from sandbox.protocol.logs import LimitExceeded
from sandbox.protocol.report import Marks
from sandbox.protocol.response import StdioCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.protocol.response import Collector, Parsed

MIB = 1 << 20
OUTPUT = 8 * MIB
RESPONSE = b'\n{"success": true, "output": 1}\n'
REPORT = (
    b'\x1e{"exit_code":null,"signal":null,"exec_errno":null,"cpu_ms":18.9,"peak_memory_bytes":1,'
    b'"oom_kills":0,"pids_denied":0,"tmp_bytes":0,"tmp_full":false,"shm_full":false,'
    b'"largest_file":null,"denied":[],"denied_more":0,"stdout_bytes":6}\n'
)
PIECE = 64 * 1024


def collector(kind: type[Collector]) -> Collector:
    return kind(max_output=OUTPUT, max_logs=MIB, now=lambda: "2026-01-24T10:30:00Z")


def pieces(line: bytes, size: int = OUTPUT) -> Iterator[bytes]:
    """`size` bytes and a little more of these lines, as they come from a socket."""
    piece = line * max(PIECE // len(line), 1)
    for _ in range(size // len(piece) + 1):
        yield piece


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 15


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[\n", b'{"type":"ready"}\n', b"[],\n"])
def test_short_messages_are_dear(line: bytes) -> None:
    """Each is parsed, so each counts as 64 bytes."""
    handler = collector(HandlerCollector)
    fed = 0
    with pytest.raises(LimitExceeded, match="output"):  # noqa: PT012
        for piece in pieces(line):
            fed += len(piece)
            handler.feed(Chunk("stdout", piece))
    assert fed <= OUTPUT * len(line) // 64 + PIECE


@pytest.mark.parametrize("blank", [b"\n", b" \n", b"\t\r\n", b" " * 8000 + b"\n"])
def test_blank_lines_before_a_response_are_no_logs(blank: bytes) -> None:
    stdio = collector(StdioCollector)
    stdio.feed(Chunk("stdout", b"\n first"))
    for piece in pieces(blank, OUTPUT - 2 * PIECE):
        stdio.feed(Chunk("stdout", piece))
    stdio.feed(Chunk("stdout", b"\n  second" + RESPONSE))
    parsed = stdio.finish()
    assert parsed.well_formed
    first, second = (entry.message for entry in parsed.logs)
    assert (first.strip(), second) == ("first", "  second")


def test_a_report_with_every_byte_is_not_parsed_every_time() -> None:
    marks = Marks()
    for piece in pieces(REPORT, 64 * MIB):
        assert marks.feed(piece) == b""
    assert marks.report is not None


@pytest.mark.parametrize("kind", [StdioCollector, HandlerCollector])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_two_gigabytes_leave_the_host_as_it_was(kind: type[Collector], stream: str) -> None:
    flooded = collector(kind)
    piece = b"x" * PIECE
    tracemalloc.start()
    try:
        for _ in range(2048 * MIB // PIECE):
            try:
                flooded.feed(Chunk(stream, piece))  # type: ignore[arg-type]
            except LimitExceeded:
                continue
        flooded.finish()
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "document",
    [
        b'{"success": true, "output": ' + b"1" * (OUTPUT - 40) + b"}",
        b'{"success": true, "output": 1e' + b"1" * (OUTPUT - 40) + b"}",
        b'{"success": true, "output": [' + b"9" * 4301 + b"," + b"1," * (OUTPUT // 4) + b"1]}",
        b'{"success": true, "output": "' + b'\\"' * (OUTPUT // 2 - 40),
        b'{"success": true, "output": ' + b"[" * (OUTPUT - 40),
        b'{"success": true, "output": [' + b"{}," * (OUTPUT // 3 - 40) + b"{}]}",
        b'{"success": true, "output": ' + b'{"a":' * (OUTPUT // 5 - 40),
        b"}\n" * (OUTPUT // 2),
    ],
    ids=lambda document: document[-60:-50].decode() + str(document[28:40]),
)
def test_a_document_made_to_be_slow_is_refused_in_time(document: bytes) -> None:
    assert not _said(document).well_formed


@pytest.mark.parametrize(
    "document",
    [
        b'{"success": true, "output": {' + b'"a": 0, ' * (OUTPUT // 8 - 40) + b'"b": 0}}',
        b'{"success": true, "output": 0.' + b"1" * (OUTPUT - 40) + b"}",
        b'{"success": true, "output": [' + b"9" * 4300 + b"]}",
        b'{"success": true, "output": 1, "logs": [' + b"1," * (OUTPUT // 2 - 40) + b"1]}",
    ],
    ids=["one key", "a long fraction", "a long integer", "many logs"],
)
def test_a_document_that_is_only_odd_is_read_in_time(document: bytes) -> None:
    assert _said(document).well_formed


def _said(document: bytes) -> Parsed:
    stdio = collector(StdioCollector)
    for at in range(0, len(document), PIECE):
        stdio.feed(Chunk("stdout", document[at : at + PIECE]))
    answered = stdio.answered
    parsed = stdio.finish()
    assert answered == parsed.well_formed
    return parsed
