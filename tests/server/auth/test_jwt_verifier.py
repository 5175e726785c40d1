"""JSON Web Tokens: who is let in by one, as whom, and who is not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sandbox.config.server_settings import CallerLimits, JwtSettings
from sandbox.models import AuthContext
from sandbox.protocol.request import parse_auth
from sandbox.server.auth.credentials import CredentialRefusedError
from sandbox.server.auth.jwks import JwkSet, RefreshPolicy
from sandbox.server.auth.jwt_verifier import JwtVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sandbox.server.auth.callers import Caller

ISSUER, AUDIENCE = "https://id.example.org/", "alyx"
RSA = rsa.generate_private_key(65537, 2048)
KEYS: Mapping[str, Any] = {
    "RS256": RSA,
    "RS384": RSA,
    "RS512": RSA,
    "PS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
WRITERS = {"R": RSAAlgorithm, "P": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}


def jwk(algorithm: str, key: object = None, **more: object) -> dict:
    """The public key for an algorithm, as a JWK whose id is the algorithm."""
    writer = next(item for start, item in WRITERS.items() if algorithm.startswith(start))
    public = (key or KEYS[algorithm]).public_key()
    return writer.to_jwk(public, as_dict=True) | {"kid": algorithm} | more


def claims(**changed: object) -> dict:
    """Good claims, with some changed; None takes one out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user_1", "iat": now, "exp": now + 300}
    return {name: value for name, value in (good | changed).items() if value is not None}


def signed(
    algorithm: str = "RS256",
    payload: dict | None = None,
    *,
    key: object = None,
    headers: dict | None = None,
    **changed: object,
) -> str:
    return jwt.encode(
        claims(**changed) if payload is None else payload,
        key or KEYS[algorithm],
        algorithm=algorithm,
        headers={"kid": algorithm} | (headers or {}),
    )


@pytest.fixture
def verifier(tmp_path: Path) -> JwtVerifier:
    return make(tmp_path)


def make(tmp_path: Path, keys: list[dict] | None = None, **changed: object) -> JwtVerifier:
    """A verifier that accepts every algorithm there is a setting for."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(name) for name in KEYS] if keys is None else keys}))
    values = {"jwks": str(file), "issuer": ISSUER, "audience": AUDIENCE, "algorithms": tuple(KEYS)}
    return JwtVerifier(JwtSettings.model_validate(values | changed), CallerLimits())


def verify(verifier: JwtVerifier, token: str) -> Caller:
    assert verifier.recognizes(token)
    return asyncio.run(verifier.verify(token))


def refused(verifier: JwtVerifier, token: str) -> str:
    with pytest.raises(CredentialRefusedError) as error:
        asyncio.run(verifier.verify(token))
    return str(error.value)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_the_issuer_s_lets_its_subject_in(algorithm: str, verifier: JwtVerifier) -> None:
    caller = verify(verifier, signed(algorithm))
    assert caller.id == "jwt:user_1"
    assert caller.scopes == {"invoke"}
    assert caller.limits == CallerLimits()


def test_what_its_bearer_may_do_is_in_the_settings(tmp_path: Path) -> None:
    verifier = make(tmp_path, scopes=("invoke", "read"), functions=("shop-*",))
    caller = verify(verifier, signed(scope="admin", scopes=["admin"], functions=["*"]))
    assert caller.scopes == {"invoke", "read"}
    assert caller.may_invoke("shop-cart")
    assert not caller.may_invoke("admin")


def test_claims_become_the_function_s_auth(verifier: JwtVerifier) -> None:
    token = signed(email="a@example.org", email_verified=True, role="admin", org={"id": 7}, jti="x")
    auth = verify(verifier, token).auth
    assert auth == {
        "id": "user_1", "email": "a@example.org", "role": "admin", "verified": True,
        "metadata": {"org": {"id": 7}},
    }  # fmt: skip
    assert isinstance(parse_auth(auth), AuthContext)


@pytest.mark.parametrize("verified", [None, False, "true", 1, [True]], ids=str)
def test_an_address_is_verified_only_where_the_issuer_says_true(
    verified: object, verifier: JwtVerifier
) -> None:
    auth = verify(verifier, signed(email_verified=verified)).auth
    assert auth is not None
    assert auth["verified"] is False


def test_claims_of_another_type_do_not_get_in_the_way(verifier: JwtVerifier) -> None:
    auth = verify(verifier, signed(email=["a"], role={"a": 1}, name="x")).auth
    assert auth is not None
    assert (auth["email"], auth["role"], auth["metadata"]) == (None, None, {"name": "x"})
    parse_auth(auth)


NOW = int(time.time())


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": NOW - 3600}, {"exp": None}, {"exp": "never"}, {"exp": True, "iat": None},
        {"nbf": NOW + 3600}, {"iat": NOW + 3600}, {"nbf": "x"},
        {"aud": "other"}, {"aud": None}, {"aud": []}, {"aud": ["other"]}, {"aud": 7},
        {"aud": {"alyx": 1}},
        {"iss": "https://evil.example.org/"}, {"iss": None}, {"iss": [ISSUER]}, {"iss": ISSUER[:-1]},
        {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": ["user_1"]}, {"sub": "x" * 256},
        {"sub": "a\nb"}, {"sub": "a\x1b[31m"}, {"exp": 1e400}, {"exp": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_a_token_with_other_claims_is_refused(changed: dict, verifier: JwtVerifier) -> None:
    # The encoder refuses some of these, an attacker's does not.
    values = claims() | changed
    body = json.dumps({name: value for name, value in values.items() if value is not None})
    assert refused(verifier, by_hand({"alg": "RS256", "kid": "RS256"}, body))


def test_the_clocks_may_be_apart_by_the_leeway(tmp_path: Path) -> None:
    assert verify(make(tmp_path, leeway="60s"), signed(exp=int(time.time()) - 20))
    assert refused(make(tmp_path, leeway="1s"), signed(exp=int(time.time()) - 20))


def test_one_of_several_audiences_will_do(verifier: JwtVerifier) -> None:
    assert verify(verifier, signed(aud=["other", AUDIENCE]))


def encoded(text: bytes | str) -> str:
    octets = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def by_hand(header: object, body: str | None = None, *, sign: Callable | None = None) -> str:
    """A token that is signed for real, whatever its header and its body are."""
    head = header if isinstance(header, str) else json.dumps(header)
    text = f"{encoded(head)}.{encoded(json.dumps(claims()) if body is None else body)}"
    signature = (sign or (lambda data: RSAAlgorithm(RSAAlgorithm.SHA256).sign(data, RSA)))(
        text.encode()
    )
    return f"{text}.{encoded(signature)}"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 7, ["RS256"], {}])
def test_a_token_without_an_algorithm_is_refused(name: object, verifier: JwtVerifier) -> None:
    token = by_hand({"alg": name, "kid": "RS256"})
    assert refused(verifier, token)
    assert refused(verifier, token[: token.rindex(".") + 1])
    assert refused(verifier, by_hand({"kid": "RS256"}))
    assert verify(verifier, by_hand({"alg": "RS256", "kid": "RS256"}))  # the control


def test_the_public_key_is_no_secret_for_an_hmac(verifier: JwtVerifier) -> None:
    """Key confusion: the attacker has the public key, and signs with it as a secret."""
    public = RSA.public_key()
    forms = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk("RS256")).encode(),
    ]
    for secret in forms:
        for kid in (*KEYS, None):
            token = by_hand(
                {"alg": "HS256"} | ({"kid": kid} if kid else {}),
                sign=lambda data, secret=secret: hmac.digest(secret, data, hashlib.sha256),
            )
            assert refused(verifier, token)


def test_a_symmetric_key_in_the_set_is_never_used(tmp_path: Path) -> None:
    secret = b"x" * 32
    keys = [{"kty": "oct", "k": encoded(secret), "kid": "oct", "alg": "HS256"}, jwk("RS256")]
    verifier = make(tmp_path, keys)
    token = jwt.encode(claims(), secret, algorithm="HS256", headers={"kid": "oct"})
    assert refused(verifier, token)
    assert verify(verifier, signed("RS256"))


@pytest.mark.parametrize("used", KEYS)
@pytest.mark.parametrize("named", KEYS)
def test_an_algorithm_that_does_not_fit_the_key_is_refused(
    used: str, named: str, verifier: JwtVerifier
) -> None:
    token = jwt.encode(claims(), KEYS[used], algorithm=used, headers={"kid": named})
    if KEYS[used] is KEYS[named]:  # RSA, whose key fits all of RSA's
        assert verify(verifier, token)
    else:
        assert refused(verifier, token)


def test_an_algorithm_that_the_settings_do_not_list_is_refused(tmp_path: Path) -> None:
    assert refused(make(tmp_path, algorithms=("ES256",)), signed("RS256"))
    assert verify(make(tmp_path, algorithms=("ES256",)), signed("ES256"))


def test_a_key_that_names_its_algorithm_or_its_use_is_used_for_no_other(tmp_path: Path) -> None:
    for more in ({"alg": "RS512"}, {"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}):
        assert refused(make(tmp_path, [jwk("RS256", **more)]), signed("RS256"))
    for more in ({"alg": "RS256"}, {"use": "sig"}, {"key_ops": ["verify"]}):
        assert verify(make(tmp_path, [jwk("RS256", **more)]), signed("RS256"))


def test_a_key_that_is_too_short_is_not_used(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = signed("RS256", key=weak)
    assert refused(make(tmp_path, [jwk("RS256", weak)]), token)


def test_another_s_key_under_the_same_id_is_refused(verifier: JwtVerifier) -> None:
    assert refused(verifier, signed(key=rsa.generate_private_key(65537, 2048)))


def test_keys_that_a_token_brings_along_are_not_used(verifier: JwtVerifier) -> None:
    own = rsa.generate_private_key(65537, 2048)
    for headers in (
        {"jwk": jwk("RS256", own)},
        {"jwk": jwk("RS256", own), "kid": "mine"},
        {"jku": "https://127.0.0.1:1/keys", "kid": "mine"},
        {"x5u": "https://127.0.0.1:1/keys"},
        {"x5c": [encoded(own.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1))]},
    ):
        assert refused(verifier, signed(key=own, headers=headers))


@pytest.mark.parametrize(
    "more", [{"crit": ["b64"], "b64": False}, {"crit": ["b64"], "b64": True}, {"crit": ["exp"]}, {"crit": []}, {"b64": False}],
    ids=str,
)  # fmt: skip
def test_extensions_that_have_to_be_understood_are_refused(
    more: dict, verifier: JwtVerifier
) -> None:
    assert refused(verifier, by_hand({"alg": "RS256", "kid": "RS256"} | more))


def test_an_id_can_be_left_out_where_one_key_fits(tmp_path: Path) -> None:
    token = jwt.encode(claims(), RSA, algorithm="RS256")
    assert verify(make(tmp_path, [jwk("RS256"), jwk("ES256")]), token)
    assert refused(make(tmp_path, [jwk("RS256"), jwk("RS256", kid="second")]), token)


@pytest.mark.parametrize("kid", [7, ["RS256"], {"a": 1}, "../../etc/passwd", "x' OR 1=1", "\x00"])
def test_an_id_of_any_form_is_only_looked_up(kid: object, verifier: JwtVerifier) -> None:
    assert refused(verifier, by_hand({"alg": "RS256", "kid": kid}))


@pytest.mark.parametrize(
    "header", ["[" * 5000, "null", "7", '"x"', "[]", "{", "", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), '{"alg": "RS256", "kid": "RS256", "x": ' + "[" * 5000],
    ids=lambda text: text[:10].encode("unicode_escape").decode(),
)  # fmt: skip
def test_a_header_that_is_none_is_refused(header: str, verifier: JwtVerifier) -> None:
    assert refused(verifier, by_hand(header))


@pytest.mark.parametrize(
    "body", ["[" * 4000, "null", "7", "[]", "{", "", '{"exp": ' + "9" * 5000 + "}"],
    ids=lambda text: text[:10],
)  # fmt: skip
def test_a_body_that_is_none_is_refused_even_if_it_is_signed(
    body: str, verifier: JwtVerifier
) -> None:
    assert refused(verifier, by_hand({"alg": "RS256", "kid": "RS256"}, body))


def test_a_huge_token_is_refused_unread(verifier: JwtVerifier) -> None:
    assert "too long" in refused(verifier, signed(filler="x" * 10_000))
    assert verify(verifier, signed(filler="x" * 1000))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_byte_of_what_was_signed_is_changed_it_is_refused(
    data: st.DataObject, verifier: JwtVerifier
) -> None:
    token = TOKEN
    place = data.draw(st.integers(0, token.rindex(".") - 1))
    letter = data.draw(st.characters(min_codepoint=1, max_codepoint=255))
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        assert refused(verifier, changed)


TOKEN = signed(exp=NOW + 86400)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_any_text_is_refused_and_nothing_worse(text: str, verifier: JwtVerifier) -> None:
    assert refused(verifier, text)


def test_no_part_of_a_token_is_in_the_reason(verifier: JwtVerifier) -> None:
    token = signed(sub="canary" * 50)
    reasons = refused(verifier, token) + refused(verifier, by_hand({"alg": "canary"}))
    assert "canary" not in reasons


def test_while_the_keys_cannot_be_read_nobody_is_let_in() -> None:
    settings = JwtSettings(jwks="/nowhere/keys.json", issuer=ISSUER, audience=AUDIENCE)
    keys = JwkSet(settings.jwks, policy=RefreshPolicy(max_age=1, min_interval=1))
    assert "cannot be read" in refused(JwtVerifier(settings, CallerLimits(), keys=keys), signed())
