"""The protocol of the local socket, without a socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.call import Call
from sandbox.errors import CODES, InternalError, OverloadedError, SandboxError
from sandbox.local.messages import (
    PROTOCOL,
    Failure,
    Hello,
    LineReader,
    LogMessage,
    MessageError,
    Response,
    decode,
    encode,
    error_from,
    failure_from,
)

TEXT = st.text(st.characters(exclude_categories=()))
OBJECTS = st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(TEXT))
MESSAGES = st.one_of(
    st.builds(Hello, protocol=st.just(PROTOCOL), max_request=st.integers(min_value=0)),
    st.builds(
        Call,
        function=TEXT,
        input=OBJECTS,
        auth=st.none() | OBJECTS,
        files=st.lists(OBJECTS, max_size=2),
        timeout=st.none() | st.floats(0.1, 1e6),
        request_id=st.none() | TEXT,
    ),
    st.builds(LogMessage, entry=OBJECTS),
    st.builds(Response, text=TEXT),
    st.builds(Failure, code=TEXT, message=TEXT, hint=st.none() | TEXT, details=OBJECTS),
)


@given(MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: Hello | Call | LogMessage | Response) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    arrived = decode(line)
    # Surrogates that pair up are joined by any reader of JSON.
    assert json.dumps(arrived.__dict__) == json.dumps(json.loads(json.dumps(message.__dict__)))
    assert type(arrived) is type(message)


@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b"")), max_size=5), st.data())
def test_lines_are_cut_wherever_they_are_split(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    reader = LineReader(10_000)
    arrived = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        arrived += reader.feed(whole[start:end])
    assert arrived == lines


def test_a_line_without_an_end_is_given_up() -> None:
    reader = LineReader(10)
    assert reader.feed(b"x" * 10) == []
    with pytest.raises(MessageError, match="more than 10 bytes"):
        reader.feed(b"x")
    with pytest.raises(MessageError):
        LineReader(10).feed(b"x" * 11 + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"null", b'"hello"', b"\xff", b"[" * 100_000,
        b'{"type": "goodbye"}', b'{"type": []}', b'{"name": "x"}',
        b'{"type": "invoke"}',
        b'{"type": "invoke", "function": 1}',
        b'{"type": "invoke", "function": "x", "input": []}',
        b'{"type": "invoke", "function": "x", "run": "rm"}',
        b'{"type": "hello", "protocol": 2, "max_request": 1}',
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(MessageError):
        decode(line)


@pytest.mark.parametrize("kind", SandboxError.__subclasses__())
def test_an_error_arrives_with_its_class_and_all_that_it_holds(kind: type[SandboxError]) -> None:
    if kind is OverloadedError:
        sent: SandboxError = OverloadedError("full", retry_after=2.5, hint="wait")
    else:
        sent = kind("it is so", hint="mend it", details={"near": ["hello"]})
    failure = decode(encode(failure_from(sent)))
    assert isinstance(failure, Failure)
    arrived = error_from(failure)
    assert type(arrived) is kind
    assert (arrived.message, arrived.hint, arrived.details) == (
        sent.message, sent.hint, sent.details,
    )  # fmt: skip
    assert arrived.exit_code == CODES[kind.code].exit_code


def test_an_error_of_a_code_that_nobody_knows_is_internal() -> None:
    assert type(error_from(Failure(code="NEW", message="?"))) is InternalError
