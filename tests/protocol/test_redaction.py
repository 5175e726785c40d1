"""What a function logs, and what its errors say, does not show the secrets that it was given."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.functions.discovery import function_from_path
from sandbox.functions.secrets import used_secrets
from sandbox.models import FunctionError, LogEntry, NetworkDenied, NetworkStats
from sandbox.protocol.logs import CUT, MAX_LINE, Line
from sandbox.protocol.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = 'pä55/w+rd "quoted"?&x=1'
ENCODERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON, readable": lambda text: json.dumps(text, ensure_ascii=False),
    "a part of a URL": urllib.parse.quote,
    "a field of a form": urllib.parse.quote_plus,
    "a part of a URL, in small letters": lambda text: re.sub("%..", lambda match: match[0].lower(), urllib.parse.quote(text, safe="")),
    "encodeURIComponent": lambda text: urllib.parse.quote(text, safe="!'()*"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 without its end": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "basic authentication": lambda text: base64.b64encode(f"me:{text}".encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "HTML": html.escape,
}  # fmt: skip
# What no encoder leaves alone and no mark contains.
SECRETS = st.text("abcxyzABC0123456789+/=%&?'\"<>\\ äé€😀", min_size=8, max_size=40).filter(
    lambda text: len(text.strip()) >= 8
)


def redacted(text: str, **secrets: str) -> str:
    return Redactor(secrets).entry(LogEntry(message=text)).message


@pytest.mark.parametrize("name", ENCODERS)
def test_a_secret_is_found_in_the_forms_that_encoders_give_it(name: str) -> None:
    code = ENCODERS[name](SECRET)
    shown = redacted(f"before {code} after", TOKEN=SECRET)
    assert "[secret TOKEN]" in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    # Only base64 of a longer text keeps the few characters that its neighbours share.
    assert len(shown) <= len("before [secret TOKEN] after") + 10


@given(SECRETS, st.sampled_from(sorted(ENCODERS)), st.text(max_size=20), st.text(max_size=20))
def test_no_form_of_a_secret_is_left(secret: str, name: str, before: str, after: str) -> None:
    code = ENCODERS[name](secret.strip())
    shown = redacted(before + code + after, TOKEN=secret.strip())
    assert code not in shown
    assert secret.strip() not in shown


@given(st.binary(min_size=9, max_size=40), st.binary(max_size=9), st.binary(max_size=9))
def test_base64_is_found_at_any_place_of_a_longer_text(
    secret: bytes, before: bytes, after: bytes
) -> None:
    value = secret.hex()
    code = base64.b64encode(before + value.encode() + after).decode()
    assert "[secret TOKEN]" in redacted(code, TOKEN=value)


@given(st.text(max_size=200))
def test_a_text_without_secrets_is_left_alone(text: str) -> None:
    entry = LogEntry(message=text, data={"x": [text, 1, None, True]})
    error = FunctionError(code="X", message=text, details={"stdout": text})
    redactor = Redactor({"TOKEN": "\U0010ffff-this-is-not-in-there"})
    assert redactor.entry(entry) is entry
    assert redactor.error(error) is error


@pytest.mark.parametrize("value", ["", "1", "true", "short", "  a   "])
def test_a_short_secret_is_left(value: str) -> None:
    """It would be found everywhere, and tell what it is by that."""
    assert redacted(f"a short {value} text", FLAG=value) == f"a short {value} text"


def test_without_secrets_nothing_is_looked_at() -> None:
    entry = LogEntry(message="x")
    assert Redactor.none.entry(entry) is entry


def test_data_is_looked_through_with_its_keys_and_numbers() -> None:
    data = {"a": ["hunter2-and-more", {"hunter2-and-more": {"n": 12345678}}], "b": [1, None, True]}
    entry = Redactor({"A": "hunter2-and-more", "B": "12345678"}).entry(
        LogEntry(message="x", data=data, timestamp="hunter2-and-more")
    )
    assert entry.data == {
        "a": ["[secret A]", {"[secret A]": {"n": "[secret B]"}}],
        "b": [1, None, True],
    }
    assert entry.timestamp == "[secret A]"
    assert data["a"] == ["hunter2-and-more", {"hunter2-and-more": {"n": 12345678}}]


def test_errors_are_looked_through() -> None:
    error = FunctionError(
        code="E_hunter2-and-more",
        message="login as hunter2-and-more failed",
        details={"url": "https://x/?k=hunter2-and-more", "stdout": "hunter2-and-mo", "n": 1},
    )
    shown = Redactor({"A": "hunter2-and-more"}).error(error)
    assert shown.code == "E_[secret A]"
    assert shown.message == "login as [secret A] failed"
    assert shown.details == {"url": "https://x/?k=[secret A]", "stdout": "[secret A]", "n": 1}


def test_each_line_of_a_long_secret_is_one_too() -> None:
    """A log has an entry for each line; what says that it is a key is no secret."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
    shown = [redacted(line, KEY=key) for line in key.splitlines()]
    assert shown == [
        "-----BEGIN PRIVATE KEY-----",
        "[secret KEY]",
        "[secret KEY]",
        "-----END PRIVATE KEY-----",
    ]
    assert redacted(f"x{key}x", KEY=key) == "x[secret KEY]x"


@pytest.mark.parametrize("kept", [6, 7, 15])
def test_what_is_left_of_a_secret_at_a_cut_goes_too(kept: int) -> None:
    secret = "hunter2-and-more"
    whole = "x" * (MAX_LINE - kept) + secret + "y" * 100
    entry = Line(whole[:MAX_LINE].encode(), len(whole), cut=True).entry("t")
    assert entry.message.endswith(secret[:kept] + CUT)
    shown = Redactor({"A": secret}).entry(entry).message
    assert shown == "x" * (MAX_LINE - kept) + "[secret A]" + CUT


def test_the_longest_secret_wins_and_marks_are_not_looked_at_again() -> None:
    secrets = {"A": "abcdef-long-one", "B": "abcdef", "C": "secret"}
    assert redacted("abcdef-long-one abcdef secret", **secrets) == (
        "[secret A] [secret B] [secret C]"
    )


def test_only_the_secrets_that_a_function_is_given_are_looked_for(tmp_path: Path) -> None:
    """A secret of another function that appears by chance would tell that it is one."""
    (tmp_path / "index.py").write_text("def handler(ctx): return 1\n")
    (tmp_path / "function.yaml").write_text(
        'env:\n  AUTH: "Bearer ${TOKEN} ${TOKEN}"\n  PLAIN: "$${OTHER}"\n'
    )
    function, problems = function_from_path(tmp_path)
    assert function is not None, problems
    secrets = {"TOKEN": "t0ps3cret", "OTHER": "another", "THIRD": "a-third"}
    assert used_secrets(function, secrets) == {"TOKEN": "t0ps3cret"}


def test_a_secret_in_a_name_that_was_looked_up_is_found() -> None:
    denied = NetworkDenied(destination="s3cretvalue.example.org", reason="not allowed")
    stats = Redactor({"KEY": "S3cretValue"}).network(NetworkStats(denied=(denied,)))
    assert stats.denied[0].destination == "[secret KEY].example.org"


TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl-_"


@pytest.mark.parametrize("secrets", [{}, {"KEY": "hunter2hunter2"}], ids=["alone", "with others"])
def test_the_internal_token_is_replaced_too(secrets: dict[str, str]) -> None:
    plain = Redactor(secrets)
    redactor = plain.with_token(TOKEN)
    entry = LogEntry(message=f"Bearer {TOKEN}", data={TOKEN: [TOKEN]}, timestamp="t")
    shown = redactor.entry(entry)
    mark = "[secret internal_token]"
    assert (shown.message, shown.data) == (f"Bearer {mark}", {mark: [mark]})
    error = FunctionError(code="X", message=TOKEN, details={"stderr": f"-{TOKEN}-"})
    assert redactor.error(error).to_dict() == {
        "code": "X", "message": mark, "details": {"stderr": f"-{mark}-"},
    }  # fmt: skip
    for name, value in secrets.items():
        assert redactor.entry(LogEntry(message=value)).message == f"[secret {name}]"
    # Only that invocation's: the next has one of its own.
    assert plain.entry(entry) == entry
    assert plain.with_token("") is plain
