"""Webhooks: who is let in, what the function is given, what the sender is answered."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import FunctionError
from sandbox.errors import OverloadedError
from sandbox.executions.model import ExecutionQuery
from sandbox.server.events.signatures import SignatureScheme, is_genuine
from sandbox.server.http.webhooks import MOST_LARGE, SMALL, _LargeBodies
from tests.server.plain import PlainFunctions, plain_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from sandbox.server.dispatch.dispatcher import Dispatcher
    from sandbox.testing import FakeContext

SECRET = "it is a secret"
MANIFEST = """
hooks:
  - type: webhook
    mode: {mode}
    source: "{source}"
    action: push
    verification: {{type: hmac-{hash}, header: X-Signature, secret: "{secret}"}}
    config: {config}
"""


def manifest(
    *,
    mode: str = "sync",
    source: str = "",
    hash: str = "sha256",
    config: Any = None,
    secret: str = "${HOOK}",
) -> str:
    return MANIFEST.format(
        mode=mode, source=source, hash=hash, secret=secret, config=json.dumps(config or {})
    )


def sign(body: bytes, *, secret: str = SECRET, hash: str = "sha256") -> str:
    return hmac.new(secret.encode(), body, hash).hexdigest()


def base64_of(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def genuine(value: str, body: bytes = b"body", **more: Any) -> bool:
    options = {"secret": SECRET, "now": 1000.0}
    options |= {name: more.pop(name) for name in options.keys() & more.keys()}
    return is_genuine(value, body, scheme=SignatureScheme(tolerance=300.0, **more), **options)


def test_a_signature_has_any_of_these_forms() -> None:
    digest = sign(b"body")
    for value in (digest, digest.upper(), f"sha256={digest}", base64_of(digest), f" {digest} "):
        assert genuine(value), value
    sha1 = sign(b"body", hash="sha1")
    assert genuine(f"sha1={sha1}", algorithm="hmac-sha1")


def test_what_signs_something_else_is_no_signature() -> None:
    digest = sign(b"body")
    assert not genuine(digest, b"body ")
    assert not genuine(digest, secret="another")
    assert not genuine(digest, secret=None)
    assert not genuine(sign(b"body", secret=""), secret="")
    assert not genuine(digest, algorithm="hmac-sha1")
    assert not genuine(digest[:-2])
    assert not genuine(digest, form="stripe")
    assert not genuine(f"t=1000,v1={sign(b'1000.body')}")


def test_a_signature_with_a_time() -> None:
    signed = sign(b"1000.body")
    assert genuine(f"t=1000,v1={signed}", form="stripe")
    assert genuine(f"t=1000,v1={sign(b'old')},v1={signed},v0=x", form="stripe")
    assert genuine(f"t=1000,v1={signed}", form="stripe", now=1300.0)
    assert not genuine(f"t=1000,v1={signed}", form="stripe", now=1301.0)
    assert not genuine(f"t=1000,v1={signed}", form="stripe", now=699.0)
    assert not genuine(f"t=1001,v1={signed}", form="stripe")
    assert not genuine(f"t=1000,t=1000,v1={signed}", form="stripe")
    assert not genuine(f"v1={sign(b'.body')}", form="stripe")


@settings(deadline=None)
@given(st.text(), st.binary(), st.sampled_from(["plain", "stripe"]))
def test_no_header_is_too_strange(value: str, body: bytes, form: str) -> None:
    assert not genuine(value, body, form=form)


Server = tuple["httpx.Client", PlainFunctions, "Dispatcher"]


def answer(ctx: FakeContext) -> Any:
    if ctx.input.get("stall"):
        ctx.process.stall()
    if ctx.input.get("fail"):
        return FunctionError(code=ctx.input["fail"], message="no")
    return {"challenge": ctx.input.get("challenge"), "saw": ctx.input}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with plain_server(tmp_path, secrets={"HOOK": SECRET}, code=answer) as server:
        yield server


def deliver(
    client: httpx.Client, body: bytes | dict[str, Any], path: str = "f", **headers: str
) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"x-signature": sign(data), "content-type": "application/json"} | named
    return client.post(f"/api/webhooks/{path}", content=data, headers=named)


def test_a_webhook_that_waits_is_given_the_response(server: Server) -> None:
    client, sandbox, dispatcher = server
    sandbox.write("f", manifest())
    response = deliver(
        client, {"ref": "main"}, "f?a=1", authorization="Bearer x", cookie="c=1", x_event="push"
    )
    assert response.status_code == 200
    document = response.json()
    assert document["success"]
    given = document["output"]["saw"]
    about = given.pop("_request")
    assert given == {"ref": "main"}
    assert about["method"] == "POST"
    assert about["path"] == "/api/webhooks/f"
    assert (about["source"], about["action"], about["query"]) == ("", "push", {"a": "1"})
    assert about["headers"]["x-event"] == "push"
    # Neither what others prove themselves with, nor the signature.
    assert not {"authorization", "cookie", "x-signature"} & set(about["headers"])
    assert len(sandbox.invoked) == 1
    execution = dispatcher.get(document["request_id"])
    assert execution is not None
    assert (execution.caller, execution.trigger) == ("webhook:f", "webhook")


def test_a_webhook_has_the_time_limit_of_its_config(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest(config={"timeout": "50ms"}))
    error = deliver(client, {"stall": True}).json()["error"]
    assert (error["code"], error["details"]["limit"]) == ("TIMEOUT", 0.05)


def test_a_webhook_that_does_not_wait_is_put_on_record(server: Server) -> None:
    client, sandbox, dispatcher = server
    sandbox.write("f", manifest(mode="async"))
    response = deliver(client, {})
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/executions/{response.json()['id']}"
    *_, last = dispatcher.follow(response.json()["id"])
    assert getattr(last, "status", None) == "succeeded"


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"[1, 2]", "application/json", {"body": [1, 2]}),
        (b'{"a": 1}', "application/vnd.x+json; charset=utf-8", {"a": 1}),
        (b"a=1&b=2", "application/x-www-form-urlencoded", {"body": "a=1&b=2"}),
        (b"\xff\x00", "application/octet-stream", {"body": "/wA=", "base64": True}),
        (b"", "application/json", {}),
    ],
)
def test_a_body_of_any_kind_becomes_input(
    server: Server, body: bytes, kind: str, expected: dict[str, Any]
) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest())
    response = deliver(client, body, content_type=kind)
    given = response.json()["output"]["saw"]
    del given["_request"]
    assert given == expected


def test_a_body_cannot_say_what_the_request_was(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest())
    response = deliver(client, {"_request": {"method": "GET"}})
    assert response.json()["output"]["saw"]["_request"]["method"] == "POST"


def test_nobody_is_told_which_webhooks_there_are(server: Server) -> None:
    """No function, no webhook, no secret, no signature, a wrong one: all the same answer."""
    client, sandbox, _ = server
    sandbox.write("f", manifest())
    sandbox.write("none", "runtime: python")
    sandbox.write("unset", manifest(secret="${UNSET}"))
    refusals = [
        deliver(client, {}, x_signature=sign(b"other")),
        deliver(client, {}, x_signature=""),
        deliver(client, {}, "f/other"),
        deliver(client, {}, "none"),
        deliver(client, {}, "nobody"),
        deliver(client, {}, "unset"),
        deliver(client, {}, "unset", x_signature=sign(b"{}", secret="${UNSET}")),
        deliver(client, {}, "unset", x_signature=sign(b"{}", secret="")),
    ]
    for refusal in refusals:
        assert refusal.status_code == 401
    varying = ("request_id", "instance")
    bodies = [
        {name: value for name, value in refusal.json().items() if name not in varying}
        for refusal in refusals
    ]
    assert all(body == bodies[0] for body in bodies)
    assert sandbox.invoked == []
    assert deliver(client, {}).status_code == 200  # the control


def test_the_server_s_environment_holds_no_secrets(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, sandbox, _ = server
    monkeypatch.setenv("UNSET", SECRET)
    sandbox.write("f", manifest(secret="${UNSET}"))
    assert deliver(client, {}).status_code == 401


def test_a_function_can_have_webhooks_of_several_sources(server: Server) -> None:
    client, sandbox, _ = server
    other = manifest(source="other", secret="another").removeprefix("\nhooks:\n")
    sandbox.write("f", manifest(source="one") + other)
    assert deliver(client, {}, "f/one").json()["output"]["saw"]["_request"]["source"] == "one"
    assert deliver(client, {}, "f/other").status_code == 401
    assert deliver(client, {}, "f/other", x_signature=sign(b"{}", secret="another")).is_success
    assert deliver(client, {}).status_code == 401


def test_the_only_webhook_needs_no_source(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest(source="one"))
    assert deliver(client, {}, "f").is_success


def test_the_answer_can_be_the_output_alone(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest(config={"answer": "output"}))
    assert deliver(client, {"challenge": "abc"}).json()["challenge"] == "abc"
    failed = deliver(client, {"fail": "SAD"})
    assert failed.status_code == 500
    assert failed.json()["error"]["code"] == "SAD"


def test_a_header_with_a_time_is_known_by_its_name(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest().replace("X-Signature", "Stripe-Signature"))
    now = int(time.time())

    def value(moment: int) -> str:
        return f"t={moment},v1={sign(f'{moment}.{{}}'.encode())}"

    assert deliver(client, {}, stripe_signature=value(now)).is_success
    assert deliver(client, {}, stripe_signature=value(now - 3600)).status_code == 401


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_delivery_that_comes_twice_runs_once(server: Server, mode: str) -> None:
    client, sandbox, dispatcher = server
    sandbox.write("f", manifest(mode=mode, config={"delivery_header": "X-Delivery"}))
    first, again, other = (
        deliver(client, {}, x_delivery=name, x_sent_at=at)
        for name, at in (("1", "now"), ("1", "later"), ("2", "later"))
    )
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert other.json() != first.json()
    assert len(dispatcher.list(ExecutionQuery(function="f")).executions) == 2
    # Another body of the same delivery is none.
    assert deliver(client, {"a": 1}, x_delivery="1").status_code == 422


def test_a_delivery_that_failed_may_come_again(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", manifest(config={"delivery_header": "X-Delivery", "timeout": "50ms"}))
    for _ in range(2):
        assert deliver(client, {"stall": True}, x_delivery="1").status_code == 504
    assert len(sandbox.invoked) == 2


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    limits = {"limits": {"body": "1kb"}}
    with plain_server(tmp_path, secrets={"HOOK": SECRET}, code=answer, **limits) as server:
        client, sandbox, _ = server
        sandbox.write("f", manifest())
        assert deliver(client, b"x" * 1025, "f").status_code == 413
        assert deliver(client, b"x" * 1025, "nobody").status_code == 413
        body = b'"' + b"x" * 1022 + b'"'
        assert deliver(client, body, "f").status_code == 200


def test_large_bodies_of_anybody_are_read_a_few_at_once() -> None:
    room = _LargeBodies()
    places = [
        room.reading(length) for length in ("", "x", str(SMALL + 1)) for _ in range(MOST_LARGE)
    ]
    for place in places[:MOST_LARGE]:
        place.__enter__()
    with pytest.raises(OverloadedError), places[MOST_LARGE]:
        pass
    with room.reading(str(SMALL)):
        pass
    places[0].__exit__(None, None, None)
    with places[MOST_LARGE + 1]:
        pass
