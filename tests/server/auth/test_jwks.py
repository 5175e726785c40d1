"""Where the keys of callers' tokens come from: read when needed, seldom, and never too much."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from sandbox.server.auth import jwks
from sandbox.server.auth.credentials import CredentialRefusedError
from sandbox.server.auth.jwks import MAX_BYTES, JwkSet, JwkSetError, RefreshPolicy, parse_keys
from tests.clock import Clock
from tests.protocol.test_json_values import json_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def key(name: str) -> dict:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    return OKPAlgorithm.to_jwk(public, as_dict=True) | {"kid": name}


def document(*names: str) -> bytes:
    return json.dumps({"keys": [key(name) for name in names]}).encode()


class Source:
    """Gives what it has, and counts how often it was asked; an exception is raised."""

    def __init__(self, *names: str) -> None:
        self.answer: bytes | Exception = document(*names)
        self.asked = 0
        self.let_go: asyncio.Event | None = None

    async def __call__(self) -> bytes:
        self.asked += 1
        if self.let_go is not None:
            await self.let_go.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


POLICY = RefreshPolicy(max_age=100, min_interval=10, max_stale=1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source("one")


@pytest.fixture
def keys(source: Source, clock: Clock) -> JwkSet:
    return JwkSet("handed in", policy=POLICY, clock=clock, read=source)


def found(keys: JwkSet, name: str = "one") -> bool:
    return bool(asyncio.run(keys.find(name, "EdDSA")))


def test_keys_are_read_once_and_then_only_when_they_are_old(
    keys: JwkSet, source: Source, clock: Clock
) -> None:
    assert source.asked == 0
    assert all(found(keys) for _ in range(5))
    assert source.asked == 1
    clock.now += POLICY.max_age
    source.answer = document("two")
    assert not found(keys)  # one that the issuer took back
    assert found(keys, "two")
    assert source.asked == 2


def test_an_unknown_id_makes_them_be_read_anew_but_seldom(
    keys: JwkSet, source: Source, clock: Clock
) -> None:
    assert found(keys)
    source.answer = document("one", "two")
    clock.now += POLICY.min_interval
    assert found(keys, "two")
    assert source.asked == 2
    assert not any(found(keys, f"guess-{number}") for number in range(100))
    assert source.asked == 2
    clock.now += POLICY.min_interval
    assert not any(found(keys, f"guess-{number}") for number in range(100))
    assert source.asked == 3


def test_a_set_without_keys_withdraws_those_before(
    keys: JwkSet, source: Source, clock: Clock
) -> None:
    assert found(keys)
    source.answer = document()
    clock.now += POLICY.max_age
    assert not found(keys)


def test_many_requests_at_once_read_them_once(source: Source, clock: Clock) -> None:
    async def many() -> list[object]:
        keys = JwkSet("handed in", policy=POLICY, clock=clock, read=source)
        return await asyncio.gather(*(keys.find("one", "EdDSA") for _ in range(50)))

    assert all(asyncio.run(many()))
    assert source.asked == 1


def test_old_keys_serve_while_new_ones_cannot_be_read_but_not_for_ever(
    keys: JwkSet, source: Source, clock: Clock
) -> None:
    assert found(keys)
    source.answer = JwkSetError("away")
    clock.now += POLICY.max_age
    assert found(keys)
    clock.now += POLICY.max_stale
    with pytest.raises(CredentialRefusedError):
        found(keys)
    source.answer = document("one")
    clock.now += POLICY.min_interval
    assert found(keys)


def test_in_the_background_nobody_waits_for_new_keys_while_there_are_old_ones(
    source: Source, clock: Clock
) -> None:
    policy = RefreshPolicy(max_age=100, min_interval=10, max_stale=1000, in_background=True)

    async def scenario() -> None:
        keys = JwkSet("handed in", policy=policy, clock=clock, read=source)
        assert await keys.find("one", "EdDSA")
        source.let_go = asyncio.Event()
        source.answer = document("one", "two")
        clock.now += policy.max_age
        # The source does not answer yet, and these come back all the same.
        async with asyncio.timeout(20):
            for _ in range(20):
                assert await keys.find("one", "EdDSA")
        source.let_go.set()
        async with asyncio.timeout(20):
            while not await keys.find("two", "EdDSA"):
                await asyncio.sleep(0)
        assert source.asked == 2

    asyncio.run(scenario())


def test_a_file_that_changes_is_read_anew(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(document("one"))
    keys = JwkSet(str(file), clock=clock)
    assert found(keys)
    file.write_bytes(document("two"))
    clock.now += 5
    assert found(keys, "two")
    assert not found(keys)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"keys": 7}', b"[" * 5000, b'{"keys": [' + b"{}," * 200 + b"{}]}",
     b" " * (MAX_BYTES + 1), b"\xff\xfe"],
    ids=lambda content: repr(content[:9]),
)  # fmt: skip
def test_a_document_that_is_none_is_an_error(content: bytes) -> None:
    with pytest.raises(JwkSetError):
        parse_keys(content)


@given(st.lists(json_values, max_size=5))
def test_entries_of_any_form_are_passed_over(entries: list) -> None:
    content = json.dumps({"keys": [*entries, key("good")]}).encode()
    assert [item.key_id for item in parse_keys(content)] == ["good"]


@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg"]),
                       json_values | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519"])))  # fmt: skip
def test_fields_of_any_form_are_no_more_than_no_key(fields: dict) -> None:
    parse_keys(json.dumps({"keys": [fields]}).encode())


def test_of_a_private_key_only_the_public_one_is_kept() -> None:
    private = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048), as_dict=True)
    assert "d" in private
    del private["key_ops"]  # which says that it signs, so that it would be passed over
    kept = parse_keys(json.dumps({"keys": [private]}).encode())
    assert {item.algorithm_name for item in kept} == {"RS256", "RS384", "RS512", "PS256"}
    assert all(isinstance(item.key, rsa.RSAPublicKey) for item in kept)


class Issuer(BaseHTTPRequestHandler):
    """Answers with whatever the test has set."""

    answer: Callable[[BaseHTTPRequestHandler], None]

    def do_GET(self) -> None:
        # A client that has seen enough goes away.
        with contextlib.suppress(OSError):
            type(self).answer(self)

    def log_message(self, *_: object) -> None:
        pass


def sends(content: bytes, *, status: int = 200, **headers: str) -> Callable:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def issuer(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an https server on loopback, whose certificate is trusted."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}/keys"
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_are_fetched_from_a_url(issuer: str) -> None:
    Issuer.answer = sends(document("one"))
    assert found(JwkSet(issuer))


@pytest.mark.parametrize(
    "answer",
    [
        sends(document("one"), status=500),
        sends(b"", status=302, Location="https://127.0.0.1:1/keys"),
        sends(b"no keys"),
        sends(b" " * MAX_BYTES + document("one")),
    ],
    ids=["an error", "a redirect", "no keys", "too large"],
)
def test_an_answer_that_is_none_lets_nobody_in(answer: Callable, issuer: str) -> None:
    Issuer.answer = answer
    with pytest.raises(CredentialRefusedError):
        found(JwkSet(issuer))


def test_an_answer_without_end_takes_bounded_time_and_memory(
    issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 65536)
            sent.append(65536)

    Issuer.answer = endless
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT", 60.0)
    with pytest.raises(CredentialRefusedError):
        found(JwkSet(issuer))
    assert sum(sent) < 64 << 20  # what fits into the buffers of two sockets, and not more

    monkeypatch.setattr(jwks, "FETCH_TIMEOUT", 0.5)
    stop = threading.Event()

    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b" ")

    Issuer.answer = dripping
    began = time.monotonic()
    with pytest.raises(CredentialRefusedError):
        found(JwkSet(issuer))
    stop.set()
    assert time.monotonic() - began < 60


def test_a_server_that_cannot_prove_its_name_is_not_believed(
    issuer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Issuer.answer = sends(document("one"))
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    with pytest.raises(CredentialRefusedError):
        found(JwkSet(issuer))


def test_the_event_loop_goes_on_while_keys_are_fetched(issuer: str) -> None:
    asked, answer_now = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        answer_now.wait(60)
        sends(document("one"))(handler)

    Issuer.answer = slow

    async def scenario() -> bool:
        finding = asyncio.create_task(JwkSet(issuer).find("one", "EdDSA"))
        # The loop that waits for the answer is the one that gives the order for it.
        while not asked.is_set():
            await asyncio.sleep(0.01)
        assert not finding.done()
        answer_now.set()
        return bool(await finding)

    assert asyncio.run(scenario())
