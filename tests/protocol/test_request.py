from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import InvalidRequestError
from sandbox.models import AuthContext, FunctionContext, FunctionRequest
from sandbox.protocol.input import file_upload, parse_input
from sandbox.protocol.request import add_token, encode_request
from tests.protocol.test_json_values import json_values

MIB = 1 << 20


def request(document: dict, **context: object) -> FunctionRequest:
    return FunctionRequest(
        request_id="req_123", function="hello", input=document, context=FunctionContext(**context)
    )


def test_a_request_is_the_contract_s_document_on_one_line() -> None:
    auth = AuthContext(id="user_123", email="user@example.com", role="admin", verified=True)
    encoded = encode_request(
        request({"name": "World"}, auth=auth, env={"API_KEY": "secret"},
                alyx_url="http://localhost:8090", internal_token="token_xyz"),
        max_bytes=MIB,
    )  # fmt: skip
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded) == {
        "request_id": "req_123",
        "function": "hello",
        "input": {"name": "World"},
        "context": {
            "auth": {"id": "user_123", "email": "user@example.com", "role": "admin",
                     "verified": True, "metadata": {}},
            "env": {"API_KEY": "secret"},
            "alyx_url": "http://localhost:8090",
            "internal_token": "token_xyz",
        },
    }  # fmt: skip


@given(json_values, st.text(st.characters(codec="ascii")))
def test_a_token_that_comes_later_stands_where_it_would_have_stood(
    value: object, token: str
) -> None:
    document = {"internal_token": "", "value": value}
    later = add_token(encode_request(request(document), max_bytes=MIB), token)
    assert later == encode_request(request(document, internal_token=token), max_bytes=MIB)


def test_an_anonymous_call_has_null_for_auth() -> None:
    assert json.loads(encode_request(request({}), max_bytes=MIB))["context"]["auth"] is None


@given(st.dictionaries(st.text(st.characters()), json_values, max_size=4))
def test_any_json_object_survives_the_way_to_the_function(document: dict) -> None:
    encoded = encode_request(request(document), max_bytes=MIB)
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded)["input"] == document


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def contains_itself() -> dict:
    value: dict = {}
    value["a"] = [value, value]
    return value


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"a": [1, {"b": float("nan")}]}, r"input\['a'\]\[1\]\['b'\] is nan"),
        ({"a": float("-inf")}, r"input\['a'\] is -inf"),
        ({"a": {1, 2}}, r"input\['a'\] is of type set"),
        ({"a": b"bytes"}, r"input\['a'\] is of type bytes"),
        ({"a": {(1, 2): 3}}, "keys must be"),
        ({"a": 10**5000}, "4300 digits"),
        (contains_itself(), "Circular"),
        (nested(100), "deeper than 100"),
        (nested(5000), "deeper than 100"),
        ({"a": "x" * MIB}, "the most is 1mb"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(document: dict, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        encode_request(request(document), max_bytes=MIB)


def test_what_can_be_read_at_the_deepest_can_be_sent() -> None:
    deepest = parse_input(json.dumps(nested(99)))
    assert json.loads(encode_request(request(deepest), max_bytes=MIB))["input"] == deepest


def test_the_cap_on_a_request_is_exact() -> None:
    size = len(encode_request(request({}), max_bytes=MIB))
    assert encode_request(request({}), max_bytes=size)
    with pytest.raises(InvalidRequestError):
        encode_request(request({}), max_bytes=size - 1)


def test_too_large_a_request_names_limit_observed_and_setting() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        encode_request(request({"a": "x" * 100}), max_bytes=50)
    assert refused.value.details["limit"] == 50
    assert refused.value.details["observed"] > 100
    assert refused.value.details["setting"] == "limits.request"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "line 1, column 2"),
        ('{"a":\n oops}', "line 2, column 2"),
        ("[1]", "an array"),
        ('"x"', "a string"),
        ("null", "null"),
        ("true", "a boolean"),
        ("3", "a number"),
        ('{"a": NaN}', "NaN"),
        (b"\xff", "UTF-8"),
        ("\udcff", "UTF-8 at byte 0"),
        ("", "line 1"),
    ],
)
def test_input_that_is_no_object_says_what_and_where(text: str | bytes, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        parse_input(text)


@given(st.text(st.characters()) | st.binary())
def test_any_input_is_an_object_or_an_invalid_request(text: str | bytes) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(parse_input(text), dict)


def test_an_escaped_lone_surrogate_reaches_the_function_as_it_was_sent() -> None:
    document = parse_input(r'{"\ud800": "\udfff"}')
    assert rb'{"\ud800":"\udfff"}' in encode_request(request(document), max_bytes=MIB)


def test_a_byte_order_mark_before_the_input_is_passed_over() -> None:
    assert parse_input("\ufeff{}") == parse_input(b"\xef\xbb\xbf{}") == {}


def test_a_file_is_an_element_of_files() -> None:
    upload = file_upload(
        name="document", filename="a.txt", content_type="text/plain", content=b"\0hi"
    )
    assert upload == {
        "name": "document",
        "filename": "a.txt",
        "content_type": "text/plain",
        "size": 3,
        "data": base64.b64encode(b"\0hi").decode(),
    }
