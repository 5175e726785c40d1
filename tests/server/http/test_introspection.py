"""Internal tokens over HTTP (RFC 7662)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import Settings
from sandbox.errors import InvalidRequestError
from sandbox.server.http.introspection import introspect, jwks
from sandbox.tokens import Tokens, load_key, verify
from tests.clock import NOW, Clock

if TYPE_CHECKING:
    from starlette.requests import Request


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    return Tokens(key=load_key(None), clock=clock)


class Client:
    """Sends requests to an application in this process."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._send("GET", path))

    def post(self, path: str, **options: object) -> httpx.Response:
        return asyncio.run(self._send("POST", path, **options))

    async def _send(self, method: str, path: str, **options: object) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)


@pytest.fixture
def client(tokens: Tokens) -> Client:
    service: Any = SimpleNamespace(tokens=tokens, settings=Settings())
    caller: Any = None  # whoever is let in may ask

    async def ask(request: Request) -> Response:
        return await introspect(request, caller, service)

    async def keys(request: Request) -> Response:
        return await jwks(request, service)

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"message": str(error)}, status_code=400)

    routes = [Route("/introspect", ask, methods=["POST"]), Route("/keys", keys)]
    return Client(Starlette(routes=routes, exception_handlers={InvalidRequestError: refuse}))


def test_a_valid_token_is_told_with_its_claims(client: Client, tokens: Tokens) -> None:
    token = tokens.generate("hello", "req_1", NOW + 30)
    answer = client.post("/introspect", data={"token": token, "token_type_hint": "access_token"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert told.pop("jti")
    assert told == {
        "active": True, "iss": "alyx-sandbox", "aud": "alyx", "sub": "hello", "function": "hello",
        "request_id": "req_1", "iat": NOW, "exp": NOW + 30,
    }  # fmt: skip


def test_of_any_other_nothing_is_told(client: Client, tokens: Tokens, clock: Clock) -> None:
    ended = tokens.generate("hello", "req_1", NOW + 30)
    tokens.revoke(ended)
    expired = tokens.generate("hello", "req_1", NOW - 1)
    foreign = Tokens(key=load_key(None), clock=clock).generate("hello", "req_1", NOW + 30)
    for token in (ended, expired, foreign, ended + "x", "x", "ü", "a.b.c", "x" * 9000):
        answer = client.post("/introspect", data={"token": token})
        assert (answer.status_code, answer.json()) == (200, {"active": False}), token


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/x-www-form-urlencoded"),
        (b"tok=x", "application/x-www-form-urlencoded"),
        (b"token=a&token=b", "application/x-www-form-urlencoded"),
        (b"token=" + b"x" * 100_000, "application/x-www-form-urlencoded"),
        (b"a&" * 5000, "application/x-www-form-urlencoded"),
        (b"token=\xff", "application/x-www-form-urlencoded"),
        (b'{"token": "x"}', "application/json"),
        (b"token=x", ""),
    ],
    ids=["empty", "another field", "twice", "large", "many", "no ASCII", "JSON", "no type"],
)
def test_a_body_that_is_no_such_form_is_refused(body: bytes, kind: str, client: Client) -> None:
    answer = client.post("/introspect", content=body, headers={"content-type": kind})
    assert answer.status_code == 400


def test_the_public_key_is_there_for_everybody(client: Client, tokens: Tokens) -> None:
    (key,) = client.get("/keys").json()["keys"]
    token = tokens.generate("hello", "req_1", NOW + 30)
    assert verify(token, jwt.PyJWK(key).key, now=NOW).function == "hello"
    assert "d" not in key
