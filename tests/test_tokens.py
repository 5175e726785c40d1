"""Internal tokens: valid for one function, until the invocation ends, and never again."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import InvalidSettingsError
from sandbox.tokens import InvalidTokenError, Tokens, load_key, verify
from tests.clock import NOW, Clock

if TYPE_CHECKING:
    from pathlib import Path

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    return Tokens(key=KEY, clock=clock)


def refused(tokens: Tokens, token: str, **options: object) -> str:
    """Why the token is not valid."""
    with pytest.raises(InvalidTokenError) as invalid:
        tokens.validate(token, **options)
    return str(invalid.value)


def test_a_token_says_which_invocation_it_is_of(tokens: Tokens) -> None:
    claims = tokens.validate(tokens.generate("hello", "req_1", NOW + 30))
    assert (claims.function, claims.request_id) == ("hello", "req_1")
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + 30)


def test_two_tokens_of_one_request_differ_and_end_apart(tokens: Tokens) -> None:
    one, two = (tokens.generate("hello", "req_1", NOW + 30) for _ in range(2))
    assert tokens.validate(one).id != tokens.validate(two).id
    tokens.revoke(one)
    assert refused(tokens, one)
    assert tokens.validate(two)


def test_a_revoked_token_is_never_valid_again(tokens: Tokens) -> None:
    token = tokens.generate("hello", "req_1", NOW + 30)
    tokens.revoke(token)
    tokens.revoke(token)
    assert "ended" in refused(tokens, token)
    tokens.generate("hello", "req_1", NOW + 30)
    assert refused(tokens, token)


def test_a_token_ends_at_its_deadline_though_nobody_revoked_it(
    tokens: Tokens, clock: Clock
) -> None:
    token = tokens.generate("hello", "req_1", NOW + 30)
    clock.now = NOW + 29.9
    assert tokens.validate(token)
    clock.now = NOW + 30
    assert "expired" in refused(tokens, token)


def test_the_grace_is_added_to_the_deadline(clock: Clock) -> None:
    tokens = Tokens(key=KEY, clock=clock, grace=5)
    token = tokens.generate("hello", "req_1", NOW + 30)
    clock.now = NOW + 34
    assert tokens.validate(token)
    clock.now = NOW + 35
    assert refused(tokens, token)


def test_after_a_restart_no_earlier_token_is_valid(tokens: Tokens, clock: Clock) -> None:
    token = tokens.generate("hello", "req_1", NOW + 30)
    assert refused(Tokens(key=Ed25519PrivateKey.generate(), clock=clock), token)
    # With the same key it is still ours, but nothing of that invocation runs any more.
    assert "ended" in refused(Tokens(key=KEY, clock=clock), token)


def test_another_process_checks_a_token_with_the_public_key_alone(tokens: Tokens) -> None:
    token = tokens.generate("hello", "req_1", NOW + 30)
    (jwk,) = tokens.public_jwks()["keys"]
    assert set(jwk) == {"crv", "kty", "x", "kid", "use", "alg"}  # and not the private `d`
    public = jwt.PyJWK(jwk).key
    assert jwt.get_unverified_header(token)["kid"] == jwk["kid"]
    assert verify(token, public, function="hello", now=NOW).request_id == "req_1"
    for options in ({"function": "other", "now": NOW}, {"now": NOW + 30}):
        with pytest.raises(InvalidTokenError):
            verify(token, public, **options)


def test_count_is_of_valid_tokens_and_a_sweep_forgets_the_rest(
    tokens: Tokens, clock: Clock
) -> None:
    for seconds in (10, 20, 30):
        tokens.generate("hello", "req_1", NOW + seconds)
    assert tokens.count == 3
    clock.now = NOW + 20
    assert tokens.sweep() == 2
    assert (tokens.sweep(), tokens.count) == (0, 1)


def test_tokens_that_nobody_revokes_do_not_pile_up(tokens: Tokens, clock: Clock) -> None:
    for _ in range(300):
        tokens.generate("hello", "req_1", clock.now + 1)
        clock.now += 1
    assert len(tokens._active) < 100


def test_many_threads_leave_no_token_behind(tokens: Tokens) -> None:
    def invoke() -> None:
        for _ in range(50):
            token = tokens.generate("hello", "req_1", NOW + 30)
            tokens.validate(token)
            tokens.revoke(token)

    threads = [threading.Thread(target=invoke) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens.count == 0


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_byte_is_changed_the_token_is_invalid(data: st.DataObject) -> None:
    tokens = Tokens(key=KEY, clock=Clock())
    token = tokens.generate("hello", "req_1", NOW + 30)
    assert tokens.validate(token)
    octets = bytearray(token.encode())
    place = data.draw(st.integers(0, len(octets) - 1))
    octets[place] ^= data.draw(st.integers(1, 255))
    assert refused(tokens, octets.decode("latin-1"))


@settings(max_examples=100, deadline=None)
@given(function=st.text(max_size=100), other=st.text(max_size=100), request_id=st.text())
def test_a_token_is_valid_for_its_function_and_for_no_other(
    function: str, other: str, request_id: str
) -> None:
    tokens = Tokens(key=KEY, clock=Clock())
    token = tokens.generate(function, request_id, NOW + 30)
    assert tokens.validate(token, function=function).request_id == request_id
    if other != function:
        assert "another function" in refused(tokens, token, function=other)


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_any_text_is_an_invalid_token_and_nothing_worse(text: str) -> None:
    assert refused(Tokens(key=KEY, clock=Clock()), text)


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def test_forged_tokens_are_invalid(tokens: Tokens) -> None:
    token = tokens.generate("hello", "req_1", NOW + 30)
    header, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    own = Ed25519PrivateKey.generate()
    forged = {
        "no signature": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "the public key as a secret": jwt.encode(claims, public, algorithm="HS256"),
        "a key of the forger's": jwt.encode(claims, own, algorithm="EdDSA"),
        "a key in the header": jwt.encode(
            claims, own, algorithm="EdDSA", headers={"jwk": Tokens(key=own).public_jwks()}
        ),
        "the signature of another": f"{header}.{part(claims | {'sub': 'admin'})}.{signature}",
        "deep nesting": f"{part('[' * 4000)}.{body}.{signature}",
        "too long": token + "A" * 10_000,
        "empty": "",
    }
    assert {name for name, text in forged.items() if refused(tokens, text)} == set(forged)


@pytest.mark.parametrize(
    "changed",
    [{"aud": "other"}, {"iss": "other"}, {"jti": None}, {"sub": 3}, {"exp": "x"}, {"exp": 1e400}],
    ids=str,
)
def test_even_what_our_key_signed_must_be_an_internal_token(changed: dict) -> None:
    tokens = Tokens(key=KEY, clock=Clock())
    good = jwt.decode(
        tokens.generate("hello", "req_1", NOW + 30), options={"verify_signature": False}
    )
    claims = {name: value for name, value in (good | changed).items() if value is not None}
    with pytest.raises(InvalidTokenError):
        verify(jwt.encode(claims, KEY, algorithm="EdDSA"), KEY.public_key(), now=NOW)


def pem(key: object, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def test_a_key_is_read_from_its_file_and_else_made(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(KEY))
    public = Tokens(key=KEY).public_jwks()
    assert Tokens(key=load_key(file)).public_jwks() == public
    assert Tokens(key=load_key(None)).public_jwks() != public


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"canary",
        pem(KEY, b"password"),
        pem(generate_private_key(65537, 2048)),
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["missing", "no PEM", "with a password", "RSA", "public"],
)
def test_a_file_without_such_a_key_is_an_error_that_shows_nothing_of_it(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSettingsError) as wrong:
        load_key(file)
    assert str(file) in str(wrong.value)
    assert "canary" not in str(wrong.value)


def test_the_library_starts_without_what_tokens_need() -> None:
    code = "import sys, sandbox; print(*({'jwt', 'cryptography', 'sandbox.tokens'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
