"""Manifests' events as the server has them: routes over HTTP, reloads, and what authors are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox.config.settings import Settings
from sandbox.executions.database import database_url, open_database
from sandbox.server.auth.api_keys import KeySpec, KeyStore
from tests.server.plain import PlainFunctions, plain_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from sandbox.server.dispatch.dispatcher import Dispatcher

Server = tuple["httpx.Client", PlainFunctions, "Dispatcher"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with plain_server(tmp_path) as server:
        yield server


def routes(*paths: str, methods: str = "GET, POST") -> str:
    return "routes:\n" + "".join(
        f'  - {{path: "{path}", methods: [{methods}]}}\n' for path in paths
    )


def given(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["output"]["input"]
    return found


def told(sandbox: PlainFunctions, function: str) -> list[str]:
    return [item.message for item in sandbox.problems if item.function == function]


def test_a_route_leads_to_its_function(server: Server) -> None:
    client, sandbox, dispatcher = server
    sandbox.write("f", routes("/users/{id}"))
    response = client.post(
        "/users/a%2Fb?x=1&y=2&y=3", json={"name": "Ann"}, headers={"X-Own": "1", "Cookie": "c=1"}
    )
    document = given(response)
    about = document.pop("_request")
    assert document == {"name": "Ann"}
    assert (about["method"], about["path"]) == ("POST", "/users/a/b")
    assert about["params"] == {"id": "a/b"}
    assert about["query"] == {"x": "1", "y": ["2", "3"]}
    assert about["headers"]["x-own"] == "1"
    assert "cookie" not in about["headers"]
    execution = dispatcher.get(response.json()["request_id"])
    assert execution is not None
    assert (execution.function, execution.trigger) == ("f", "route")


def test_other_methods_and_paths_are_refused(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", routes("/x", methods="PUT, GET"))
    refused = client.delete("/x")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS, PUT"
    assert client.get("/x/").status_code == 404
    assert client.head("/x").status_code == 200


def test_a_query_that_is_no_text_is_no_failure(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", routes("/x"))
    assert client.get("/x?a=%ff").status_code == 200
    assert client.get("/%ff").status_code == 404


def test_a_reload_changes_routes_at_once(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", routes("/old"))
    assert client.get("/old").status_code == 200
    sandbox.write("f", routes("/new"))
    assert client.get("/old").status_code == 404
    assert client.get("/new").status_code == 200
    (sandbox.directory / "f/index.py").unlink()
    (sandbox.directory / "f/function.yaml").unlink()
    sandbox.reload()
    assert client.get("/new").status_code == 404


def test_a_function_of_another_name_takes_the_routes_over(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("a", routes("/x"))
    (sandbox.directory / "a").rename(sandbox.directory / "b")
    sandbox.reload()
    assert client.get("/x").json()["output"]["function"] == "b"
    assert sandbox.problems == ()


def test_a_route_that_two_functions_want_is_told(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("b", routes("/x"))
    sandbox.write("a", routes("/x"))
    assert client.get("/x").json()["output"]["function"] == "a"
    (warning,) = told(sandbox, "b")
    assert "the route GET /x leads to the function a" in warning
    assert told(sandbox, "a") == []


def test_the_server_s_own_paths_stay_its_own(server: Server) -> None:
    client, sandbox, _ = server
    sandbox.write("f", routes("/healthz", "/api/functions/g", "/{any}", "/{any}/{other}"))
    assert client.get("/healthz").json() != {}
    assert "output" not in client.get("/healthz").json()
    assert client.get("/api/nothing").status_code == 404
    assert client.get("/%61pi/nothing").status_code == 404
    assert "the server's own" in told(sandbox, "f")[0]


def test_authors_are_told_of_what_cannot_be_used(server: Server) -> None:
    _, sandbox, _ = server
    hook = "{type: hmac-sha256, header: X-S, secret: s}"
    sandbox.write(
        "f",
        f"""
hooks:
  - {{type: webhook, verification: {hook}, config: {{format: strange}}}}
  - {{type: webhook, source: a, verification: {hook}, config: {{retries: 2}}}}
  - {{type: webhook, source: a, verification: {hook}}}
  - {{type: database, source: users, action: insert, config: {{anything: 1}}}}
schedules:
  - {{name: n, type: cron, expression: "0 3 * * *", config: {{timeout: never}}}}
""",
    )
    (warning,) = told(sandbox, "f")
    for part in (
        "the webhook is not received: config.format",
        "the webhook 'a': config.retries is not used here",
        "the webhook 'a': another of the same source comes before it",
        "the schedule 'n' does not run: config.timeout",
    ):
        assert part in warning
    assert "anything" not in warning


def test_routes_ask_for_a_caller_as_the_api_does(tmp_path: Path) -> None:
    with plain_server(tmp_path, authentication="required") as (client, sandbox, _):
        sandbox.write("f", routes("/x"))
        sandbox.write("g", routes("/y"))
        settings = Settings.model_validate({"store": tmp_path / "store"})
        database = open_database(database_url(settings))
        _, key = KeyStore(database).create(
            KeySpec(name="mine", scopes=("invoke",), functions=("f",))
        )
        database.dispose()
        own = {"Authorization": f"Bearer {key}"}
        assert client.get("/x").status_code == 401
        # Nor is anybody told what there is.
        assert client.get("/nothing").status_code == 401
        about = given(client.get("/x", headers=own))["_request"]
        assert "authorization" not in about["headers"]
        assert client.get("/y", headers=own).status_code == 403
