"""Schedules, webhooks and routes of a server whose functions run in containers."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

import pytest

from sandbox import Settings
from sandbox.server.http.app import create_app
from sandbox.server.http.health import Readiness
from sandbox.server.http.operations import RESERVED
from sandbox.server.service import Service
from tests.server.plain import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

SECRET = "the operator's"
ECHO = "def handler(ctx):\n    return ctx.input\n"
MANIFEST = """
schedules:
  - {name: often, type: interval, expression: 1s, input: {from: the clock}}
hooks:
  - type: webhook
    mode: sync
    verification: {type: hmac-sha256, header: X-Hub-Signature-256, secret: "${HOOK}"}
routes:
  - {path: "/notes/{id}", methods: [GET]}
"""


@pytest.fixture
def service(tmp_path: Path, functions: Path, write: Callable[..., None]) -> Iterator[Service]:
    write("note/index.py", ECHO)
    write("note/function.yaml", MANIFEST)
    (tmp_path / "secrets.yaml").write_text(f"HOOK: {SECRET}\n")
    settings = Settings.model_validate(
        {
            "store": tmp_path / "store",
            "secrets_file": tmp_path / "secrets.yaml",
            "pool": {"enabled": False},
        }
    )
    service = Service.build(settings, functions, reserved=RESERVED)
    try:
        yield service
    finally:
        service.drain(30)


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with listening(create_app(lambda: service, Readiness())) as client:
        yield client


def test_a_schedule_a_webhook_and_a_route_run_their_function(
    service: Service, client: httpx.Client
) -> None:
    assert service.sandbox.problems == ()
    body = b'{"ref": "main"}'
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
    delivered = client.post("/api/webhooks/note", content=body, headers=headers)
    assert delivered.status_code == 200, delivered.text
    assert delivered.json()["output"]["ref"] == "main"
    assert client.post("/api/webhooks/note", content=b"{}", headers=headers).status_code == 401
    routed = client.get("/notes/7?q=1").json()["output"]["_request"]
    assert (routed["params"], routed["query"]) == ({"id": "7"}, {"q": "1"})

    service.start()
    deadline = time.monotonic() + 120
    ran: list[dict[str, object]] = []
    while len(ran) < 2:
        assert time.monotonic() < deadline, "the schedule did not run"
        time.sleep(0.1)
        page = client.get("/api/executions?function=note&status=succeeded").json()
        ran = [item for item in page["executions"] if item["trigger"] == "schedule"]
    assert {item["caller"] for item in ran} == {"schedule:often"}
    outputs = [
        client.get(f"/api/executions/{item['id']}").json()["response"]["output"] for item in ran
    ]
    assert all(output["from"] == "the clock" for output in outputs)
    assert len({output["_schedule"]["scheduled_at"] for output in outputs}) == len(outputs)
