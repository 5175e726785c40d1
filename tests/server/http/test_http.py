"""The HTTP interface, over functions that are plain Python here; tests/docker has containers."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest

from sandbox import EngineUnavailableError, FunctionError
from sandbox.testing import FakeFunction
from tests.server.plain import PlainFunctions, Served, served
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.testing import FakeContext


class Functions(PlainFunctions):
    """What each of the functions does."""

    special: ClassVar = {
        name: FakeFunction(failures={"create": failure})
        for name, failure in {
            "away": EngineUnavailableError("nobody answers at /run/secret.sock"),
            "broken": RuntimeError("in /home/secret"),
        }.items()
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go = threading.Event()
        self.ended = threading.Event()

    def answer(self, ctx: FakeContext) -> Any:
        return getattr(self, ctx.function)(ctx)

    def echo(self, ctx: FakeContext) -> Any:
        return {"input": ctx.input, "auth": ctx.auth}

    def sad(self, ctx: FakeContext) -> Any:
        return FunctionError(code="SAD", message="it is what it is")

    def slow(self, ctx: FakeContext) -> Any:
        """Logs, then waits for whoever lets it go or ends it."""
        ctx.log.info("begun")
        wait_until(lambda: self.go.is_set() or ctx.process.killed.is_set())
        if ctx.process.killed.is_set():
            self.ended.set()
        return "done"

    def chatty(self, ctx: FakeContext) -> Any:
        logs = [{"message": f"line {number}", "timestamp": "now"} for number in range(5000)]
        ctx.process.respond({"success": True, "output": 1, "logs": logs})
        ctx.process.exit()

    def stuck(self, ctx: FakeContext) -> Any:
        ctx.process.stall()


NAMES = ("echo", "sad", "slow", "chatty", "stuck", "away", "broken")


def write(server: Served) -> Served:
    for name in NAMES:
        server.sandbox.write(name, "runtime: python")
    return server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, kind=Functions) as place:
        yield write(place)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    """One that asks who calls."""
    with served(tmp_path, kind=Functions, authentication="required") as place:
        yield write(place)


def is_problem(response: httpx.Response, status: int, code: str) -> bool:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["success"] is False
    assert problem["detail"] == problem["error"]["message"]
    return bool(problem["error"]["code"] == code)


def invoke(server: Served, name: str, **options: Any) -> httpx.Response:
    return server.client.post(f"/api/functions/{name}", **options)


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    blocks = [block for block in response.text.split("\r\n\r\n") if "event: " in block]
    parsed = [dict(line.split(": ", 1) for line in block.split("\r\n")) for block in blocks]
    return [(block["event"], json.loads(block["data"])) for block in parsed]


def test_an_invocation_is_answered_with_the_response_of_the_contract(server: Served) -> None:
    response = invoke(server, "echo", json={"name": "Ada"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document["success"] is True
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["output"] == {"input": {"name": "Ada"}, "auth": None}
    assert {"logs", "duration_ms", "stats"} <= document.keys()


def test_a_long_log_comes_whole_and_in_order(server: Served) -> None:
    logs = invoke(server, "chatty").json()["logs"]
    assert [entry["message"] for entry in logs] == [f"line {number}" for number in range(5000)]
    assert logs[0] == {"level": "info", "message": "line 0", "data": None, "timestamp": "now"}


def test_no_body_is_an_empty_input(server: Served) -> None:
    assert invoke(server, "echo").json()["output"]["input"] == {}


def test_a_functions_failure_is_an_answer_the_platforms_word_of_it_has_a_status(
    server: Served,
) -> None:
    answered, killed = invoke(server, "sad"), invoke(server, "stuck?timeout=50ms")
    assert (answered.status_code, answered.json()["error"]["code"]) == (200, "SAD")
    assert (killed.status_code, killed.json()["error"]["code"]) == (504, "TIMEOUT")
    assert killed.json()["success"] is False
    assert killed.json()["error"]["details"]["limit"] == 0.05


def test_what_is_wrong_with_functions_is_told_and_not_where_they_are(
    server: Served, tmp_path: Path
) -> None:
    server.sandbox.write("wrong", "memroy: 1")
    listed = server.client.get("/api/functions")
    (problem,) = listed.json()["problems"]
    assert (problem["file"], problem["line"]) == ("functions/wrong/function.yaml", 1)
    refused = invoke(server, "wrong")
    assert is_problem(refused, 422, "INVALID_MANIFEST")
    assert "memroy" in refused.text
    for answer in (listed, refused, server.client.get("/api/functions/wrong")):
        assert str(tmp_path) not in answer.text


def test_what_fails_on_our_side_is_a_problem_that_tells_nothing_of_where(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    away = invoke(server, "away")
    assert is_problem(away, 503, "ENGINE_UNAVAILABLE")
    assert "secret" not in away.text
    broken = invoke(server, "broken")
    assert is_problem(broken, 500, "INTERNAL")
    assert "secret" not in broken.text
    wait_until(lambda: "RuntimeError: in /home/secret" in caplog.text)  # behind the answer


@pytest.mark.parametrize("name", ["nothing", "ech", "..", "%2e%2e", "..%2Fecho", "a%00b", "é" * 40])
def test_a_name_that_no_function_has_is_not_found(server: Served, name: str) -> None:
    response = server.client.post(f"/api/functions/{name}", json={})
    assert response.status_code in (404, 405)
    assert response.headers["content-type"] == "application/problem+json"
    assert server.sandbox.invoked == []


def test_near_names_are_told(server: Served) -> None:
    assert "echo" in invoke(server, "ecko").text


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b'"text"', b"null", b'{"a": NaN}', b"\xff", b'{"a":' * 200, b"{} {}"]
)
def test_what_is_no_json_object_is_refused(server: Served, body: bytes) -> None:
    response = invoke(server, "echo", content=body, headers={"content-type": "application/json"})
    assert is_problem(response, 400, "INVALID_REQUEST")


def test_another_kind_of_body_is_refused(server: Served) -> None:
    for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}):
        assert is_problem(
            invoke(server, "echo", content=b"{}", headers=headers), 415, "INVALID_REQUEST"
        )


@pytest.mark.parametrize("query", ["timeout=soon", "timeout=0", "timeout=-1s", "wait=maybe"])
def test_what_a_parameter_may_not_be(server: Served, query: str) -> None:
    assert is_problem(invoke(server, f"echo?{query}"), 400, "INVALID_REQUEST")


def test_other_methods_are_named(server: Served) -> None:
    for path, methods in (
        ("/api/functions/echo", "GET, HEAD, OPTIONS, POST"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/api/executions/x", "DELETE, GET, HEAD, OPTIONS"),
    ):
        refused = server.client.patch(path)
        assert is_problem(refused, 405, "INVALID_REQUEST")
        assert refused.headers["allow"] == methods
        asked = server.client.options(path)
        assert (asked.status_code, asked.headers["allow"]) == (204, methods)
        head = server.client.head(path)
        assert (head.content, head.status_code) == (b"", server.client.get(path).status_code)


def test_nothing_else_is_there(server: Served) -> None:
    for path in ("/", "/api", "/api/functions/", "/api/functions/echo/", "//healthz", "/docs/"):
        assert is_problem(server.client.get(path), 404, "INVALID_REQUEST")


def test_every_answer_says_that_it_is_data(server: Served) -> None:
    for path in ("/healthz", "/nothing", "/api/functions"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers or "uvicorn" in headers["server"]


def test_a_request_has_the_id_that_it_was_given_and_its_execution_one_of_its_own(
    server: Served,
) -> None:
    given = {"x-request-id": "from-a-proxy/1"}
    one, two = (invoke(server, "echo", headers=given) for _ in range(2))
    assert one.headers["x-request-id"] == two.headers["x-request-id"] == "from-a-proxy/1"
    assert one.json()["request_id"] != two.json()["request_id"]
    for given in ("", "a b", "x" * 200, "\x7f", "é".encode()):
        answer = server.client.get("/healthz", headers={"x-request-id": given})  # type: ignore[dict-item]
        assert answer.headers["x-request-id"].startswith("req_")


def test_one_that_is_not_waited_for_is_on_record_and_runs(server: Served) -> None:
    accepted = invoke(server, "echo?wait=false", json={"a": 1})
    assert accepted.status_code == 202
    path = accepted.headers["location"]
    assert path == f"/api/executions/{accepted.json()['id']}"
    wait_until(lambda: server.client.get(path).json()["status"] == "succeeded")
    execution = server.client.get(path).json()
    assert execution["response"]["output"]["input"] == {"a": 1}
    assert execution["id"] in {
        each["id"] for each in server.client.get("/api/executions").json()["executions"]
    }


def test_pages_of_executions_go_on_where_the_last_ended(server: Served) -> None:
    ids = [invoke(server, "echo?wait=false").json()["id"] for _ in range(3)]
    invoke(server, "sad?wait=false")
    first = server.client.get("/api/executions?function=echo&limit=2").json()
    rest = server.client.get(
        "/api/executions", params={"function": "echo", "before": first["next"]}
    ).json()
    found = [each["id"] for each in first["executions"] + rest["executions"]]
    assert (found, rest["next"]) == (ids[::-1], None)
    for query in ("limit=0", "limit=x", "limit=5000", "status=odd", "before=x", "caller=%00"):
        response = server.client.get(f"/api/executions?{query}")
        assert is_problem(response, 400, "INVALID_REQUEST")


def test_an_execution_that_nobody_knows(server: Served) -> None:
    for name in ("nothing", "a%00b", "%ff", "x" * 300):
        for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/logs"), ("POST", "/retry")):
            answer = server.client.request(method, f"/api/executions/{name}{more}")
            assert is_problem(answer, 404, "INVALID_REQUEST")


def test_an_execution_is_cancelled_once(server: Served) -> None:
    path = invoke(server, "slow?wait=false").headers["location"]
    wait_until(lambda: server.client.get(path).json()["status"] == "running")
    assert is_problem(server.client.post(f"{path}/retry"), 409, "INVALID_REQUEST")
    assert server.client.delete(path).status_code == 202
    wait_until(lambda: server.client.get(path).json()["status"] == "cancelled")
    assert is_problem(server.client.delete(path), 409, "INVALID_REQUEST")


def test_the_log_of_an_execution_is_streamed_while_it_runs(server: Served) -> None:
    path = invoke(server, "slow?wait=false").headers["location"]
    with server.client.stream("GET", f"{path}/logs") as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        lines = live.iter_lines()
        assert next(line for line in lines if line) == "event: log"
        assert "begun" in next(lines)
        server.sandbox.go.set()  # type: ignore[attr-defined]
        rest = [line for line in lines if line]
    assert rest[0] == "event: execution"
    assert json.loads(rest[1].removeprefix("data: "))["status"] == "succeeded"
    # Afterwards there is what was kept.
    assert [name for name, _ in events(server.client.get(f"{path}/logs"))] == ["log", "execution"]


def test_an_invocation_streams_its_log_and_then_its_response(server: Served) -> None:
    server.sandbox.go.set()  # type: ignore[attr-defined]
    asked = {"accept": "text/event-stream"}
    streamed = events(invoke(server, "slow", headers=asked))
    assert [name for name, _ in streamed] == ["log", "response"]
    assert streamed[0][1]["message"] == "begun"
    assert streamed[1][1]["output"] == "done"
    ((name, problem),) = events(invoke(server, "away", headers=asked))
    assert (name, problem["error"]["code"]) == ("error", "ENGINE_UNAVAILABLE")
    assert "secret" not in str(problem)
    assert is_problem(invoke(server, "nothing", headers=asked), 404, "FUNCTION_NOT_FOUND")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_goes_away_ends_its_invocation(server: Served, accept: str) -> None:
    functions: Any = server.sandbox
    with (
        pytest.raises(httpx.ReadTimeout),
        server.client.stream(
            "POST", "/api/functions/slow", headers={"accept": accept}, timeout=0.5
        ) as going,
    ):
        going.read()
    assert functions.ended.wait(30)
    (execution,) = server.client.get("/api/executions").json()["executions"]
    path = f"/api/executions/{execution['id']}"
    wait_until(lambda: server.client.get(path).json()["status"] == "cancelled")


def test_the_same_key_again_gets_the_same_answer_once(server: Served) -> None:
    key = {"idempotency-key": "one"}
    first = invoke(server, "echo", json={"a": 1}, headers=key)
    again = invoke(server, "echo", json={"a": 1}, headers=key)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert "idempotent-replayed" not in first.headers
    assert len(server.sandbox.invoked) == 1
    other = invoke(server, "echo", json={"a": 2}, headers=key)
    assert is_problem(other, 422, "INVALID_REQUEST")
    assert invoke(server, "sad", json={"a": 1}, headers=key).json()["error"]["code"] == "SAD"
    submitted = [
        invoke(server, "echo?wait=false", headers={"idempotency-key": "two"}) for _ in "ab"
    ]
    assert submitted[0].headers["location"] == submitted[1].headers["location"]


def test_answers_that_are_too_large_in_sum_are_forgotten_the_oldest_first(tmp_path: Path) -> None:
    with served(tmp_path, kind=Functions, idempotency_bytes="8KB") as server:
        write(server)

        def replayed(key: str) -> bool:
            headers = {"idempotency-key": key}
            answer = invoke(server, "echo", json={"text": "x" * 3000}, headers=headers)
            return "idempotent-replayed" in answer.headers

        assert [replayed(key) for key in "abab"] == [False, False, True, True]  # the control
        assert [replayed(key) for key in "cbca"] == [False, True, True, False]


def test_what_the_platform_could_not_serve_may_be_sent_again(server: Served) -> None:
    key = {"idempotency-key": "one"}
    for _ in range(2):
        assert invoke(server, "away", headers=key).status_code == 503
    assert len(server.client.get("/api/executions").json()["executions"]) == 2


def test_a_second_one_while_the_first_runs_is_told_so(server: Served) -> None:
    key = {"idempotency-key": "one"}
    functions: Any = server.sandbox
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(invoke(server, "slow", headers=key)))
    thread.start()
    wait_until(lambda: server.dispatcher.running)
    second = invoke(server, "slow", headers=key)
    assert is_problem(second, 409, "INVALID_REQUEST")
    assert second.headers["retry-after"] == "1"
    functions.go.set()
    thread.join()
    assert invoke(server, "slow", headers=key).content == answers[0].content
    assert len(functions.invoked) == 1


def test_a_key_that_cannot_be_used(server: Served) -> None:
    for key in ("a b", "x" * 300, ""):
        response = invoke(server, "echo", headers={"idempotency-key": key})
        assert is_problem(response, 400, "INVALID_REQUEST")
    streamed = {"idempotency-key": "one", "accept": "text/event-stream"}
    assert is_problem(invoke(server, "echo", headers=streamed), 400, "INVALID_REQUEST")


def test_a_form_becomes_the_input_and_its_files(server: Served) -> None:
    response = invoke(
        server,
        "echo",
        data={"name": "Ada", "tag": ["a", "b"]},
        files=[
            ("name", ("a.txt", b"hello", "text/plain")),
            ("b", ("../b", bytes(2_000_000))),
        ],
    )
    given = response.json()["output"]["input"]
    one, two = given.pop("_files")
    assert given == {"name": "Ada", "tag": ["a", "b"]}
    assert one == {
        "name": "name", "filename": "a.txt", "content_type": "text/plain", "size": 5,
        "data": "aGVsbG8=",
    }  # fmt: skip
    assert (two["filename"], two["size"]) == ("../b", 2_000_000)


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + (
        b"--" + boundary + b"--\r\n"
    )


FIELD = b'Content-Disposition: form-data; name="%s"\r\n\r\n1'
FILE = b'Content-Disposition: form-data; name="f"; filename="%d"\r\n\r\n1'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", form(FIELD % b"a")),
        ("multipart/form-data; boundary=", form(FIELD % b"a")),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", form(FIELD % b"a")[:-9]),
        ("multipart/form-data; boundary=x", form(b"no header")),
        ("multipart/form-data; boundary=x", form(b"Content-Disposition: form-data\r\n\r\n1")),
        ("multipart/form-data; boundary=x", form(FIELD % b"_files")),
        ("multipart/form-data; boundary=x", form(FIELD % b"_request")),
        ("multipart/form-data; boundary=x", form(*[FIELD % b"a"] * 1001)),
        ("multipart/form-data; boundary=x", form(*[FILE % at for at in range(101)])),
        ("multipart/form-data; boundary=" + "y" * 5000, form(FIELD % b"a")),
    ],
    ids=[
        "no boundary", "empty boundary", "no form", "cut off", "no header", "no name",
        "reserved", "reserved too", "many fields", "many files", "long boundary",
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_used(server: Served, kind: str, body: bytes) -> None:
    response = invoke(server, "echo", content=body, headers={"content-type": kind})
    assert is_problem(response, 400, "INVALID_REQUEST")
    assert server.sandbox.invoked == []


def test_a_form_with_as_much_as_is_allowed(server: Served) -> None:
    parts = [FIELD % b"a"] * 1000 + [FILE % at for at in range(100)]
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = invoke(server, "echo", content=form(*parts), headers=headers)
    given = response.json()["output"]["input"]
    assert (len(given["a"]), len(given["_files"])) == (1000, 100)


def test_a_stranger_gets_nowhere(guarded: Served) -> None:
    for method, path in (
        ("GET", "/api/functions"), ("POST", "/api/functions/echo"), ("GET", "/api/functions/echo"),
        ("GET", "/api/functions/stats"), ("POST", "/api/functions/reload"),
        ("GET", "/api/executions"), ("GET", "/api/executions/x"), ("DELETE", "/api/executions/x"),
        ("GET", "/api/executions/x/logs"), ("POST", "/api/executions/x/retry"),
        ("POST", "/api/tokens/introspect"), ("GET", "/metrics"), ("GET", "/elsewhere"),
    ):  # fmt: skip
        refused = guarded.client.request(method, path)
        assert is_problem(refused, 401, "UNAUTHENTICATED")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    for path in ("/healthz", "/.well-known/jwks.json", "/openapi.json", "/docs"):
        assert guarded.client.get(path).status_code == 200


def test_a_caller_may_do_what_its_scopes_say(guarded: Served) -> None:
    invoker = guarded.key("invoke", functions=["ech*"])
    reader, admin = guarded.key("read"), guarded.key("admin")
    assert invoke(guarded, "echo", headers=invoker).status_code == 200
    for key, method, path in (
        (invoker, "POST", "/api/functions/sad"),
        (invoker, "POST", "/api/functions/no-such-function"),
        (invoker, "GET", "/api/functions"),
        (invoker, "GET", "/metrics"),
        (reader, "POST", "/api/functions/echo"),
        (reader, "POST", "/api/functions/reload"),
    ):
        refused = guarded.client.request(method, path, headers=key)
        assert is_problem(refused, 403, "FORBIDDEN")
    for path in ("/api/functions", "/api/functions/echo", "/api/functions/stats", "/metrics"):
        assert guarded.client.get(path, headers=reader).status_code == 200
    assert guarded.client.post("/api/functions/reload", headers=admin).status_code == 200


def test_executions_are_seen_by_their_caller_and_by_readers(guarded: Served) -> None:
    mine, other, reader = guarded.key(), guarded.key(), guarded.key("read")
    path = invoke(guarded, "slow?wait=false", headers=mine).headers["location"]
    get = guarded.client.get
    assert get(path, headers=mine).status_code == 200
    assert get(path, headers=reader).status_code == 200
    assert is_problem(get(path, headers=other), 404, "INVALID_REQUEST")
    assert is_problem(guarded.client.delete(path, headers=other), 404, "INVALID_REQUEST")
    assert is_problem(guarded.client.delete(path, headers=reader), 403, "FORBIDDEN")
    listed = {
        name: len(get("/api/executions?caller=anonymous", headers=key).json()["executions"])
        for name, key in {"mine": mine, "other": other, "reader": reader}.items()
    }
    # Whoever may not read is shown its own, whatever it asks for.
    assert listed == {"mine": 1, "other": 0, "reader": 0}
    assert guarded.client.delete(path, headers=mine).status_code == 202


def test_for_whom_is_said_by_who_may_say_so(guarded: Served) -> None:
    for_ada = {"x-alyx-auth": '{"id": "ada", "role": "admin", "team": 7}'}
    trusted, other = guarded.key("invoke", "impersonate"), guarded.key()
    response = invoke(guarded, "echo", headers=trusted | for_ada)
    auth = response.json()["output"]["auth"]
    assert (auth["id"], auth["role"], auth["team"]) == ("ada", "admin", 7)
    assert is_problem(invoke(guarded, "echo", headers=other | for_ada), 403, "FORBIDDEN")
    for value in ("x", "[]", '{"role": "admin"}', '{"id": 1}'):
        refused = invoke(guarded, "echo", headers=trusted | {"x-alyx-auth": value})
        assert is_problem(refused, 400, "INVALID_REQUEST")


def test_who_asks_too_often_is_told_when_to_come_back(guarded: Served) -> None:
    key = guarded.key(rate=1)
    answers = [invoke(guarded, "echo", headers=key) for _ in range(3)]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert is_problem(refused, 429, "OVERLOADED")
    assert int(refused.headers["retry-after"]) >= 1


def test_pages_of_other_origins_only_if_asked(tmp_path: Path) -> None:
    page = {"origin": "https://app.example.org"}
    preflight = page | {
        "access-control-request-method": "POST", "access-control-request-headers": "content-type",
    }  # fmt: skip
    for place, cors in (("closed", ()), ("open", ("https://app.example.org",))):
        (tmp_path / place).mkdir()
        with served(tmp_path / place, kind=Functions, cors=cors) as server:
            write(server)
            answer = invoke(server, "echo", headers=page)
            asked = server.client.options("/api/functions/echo", headers=preflight)
            allowed = [each.headers.get("access-control-allow-origin") for each in (answer, asked)]
            assert allowed == (["https://app.example.org"] * 2 if cors else [None] * 2)
            assert answer.status_code == (200 if cors else 403)


def test_the_functions_are_shown_without_their_secrets(server: Served) -> None:
    server.sandbox.write("keen", "runtime: python\nenv: {KEY: hush}\ndescription: Keen")
    shown = server.client.get("/api/functions/keen")
    assert shown.json()["env"] == ["KEY"]
    assert "hush" not in shown.text
    listed = server.client.get("/api/functions").json()
    assert {each["name"] for each in listed["functions"]} == {*NAMES, "keen"}
    server.sandbox.directory.joinpath("keen", "function.yaml").write_text("runtime: odd")
    reloaded = server.client.post("/api/functions/reload").json()
    assert [problem["function"] for problem in reloaded["problems"]] == ["keen"]
    assert is_problem(invoke(server, "keen"), 422, "INVALID_MANIFEST")
    assert str(server.sandbox.directory) not in str(reloaded) + invoke(server, "keen").text


def test_the_page_loads_what_this_server_has_and_nothing_else(server: Served) -> None:
    page = server.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy + page.text
    loaded = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        asset = server.client.get(f"/{path}")
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith(("text/css", "text/javascript"))
    for name in ("nothing.js", "LICENSE", "..%2Fapi_page.py", "%2e%2e"):
        assert server.client.get(f"/docs/{name}").status_code == 404
