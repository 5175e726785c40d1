from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import InvalidRequestError
from sandbox.models import AuthContext, FunctionContext, FunctionRequest
from sandbox.protocol.request import encode_request, file_upload, parse_input
from tests.protocol.test_json_values import json_values

MIB = 1 << 20


def request(input: dict, **context: object) -> FunctionRequest:
    return FunctionRequest(
        request_id="req_123", function="hello", input=input, context=FunctionContext(**context)
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


def test_an_anonymous_call_has_null_for_auth() -> None:
    assert json.loads(encode_request(request({}), max_bytes=MIB))["context"]["auth"] is None


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_object_survives_the_way_to_the_function(input: dict) -> None:
    encoded = encode_request(request(input), max_bytes=MIB)
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded)["input"] == input


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "input",
    [{"a": float("nan")}, {"a": {1, 2}}, nested(101), nested(5000), {"a": "x" * MIB}],
)
def test_what_cannot_be_sent_is_refused(input: dict) -> None:
    with pytest.raises(InvalidRequestError):
        encode_request(request(input), max_bytes=MIB)


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
        ("", "line 1"),
    ],
)
def test_input_that_is_no_object_says_what_and_where(text: str | bytes, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        parse_input(text)


@given(st.text() | st.binary())
def test_any_input_is_an_object_or_an_invalid_request(text: str | bytes) -> None:
    try:
        assert isinstance(parse_input(text), dict)
    except InvalidRequestError:
        pass


def test_a_file_is_an_element_of_files() -> None:
    upload = file_upload(
        name="document", filename="a.txt", content_type="text/plain", content=b"\0hi"
    )
    assert upload.model_dump() == {
        "name": "document",
        "filename": "a.txt",
        "content_type": "text/plain",
        "size": 3,
        "data": base64.b64encode(b"\0hi").decode(),
    }
