"""The dispatcher, on functions that are plain Python here; tests/docker runs it on containers."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import (
    EngineUnavailableError,
    FunctionError,
    FunctionNotFoundError,
    FunctionResponse,
    InvalidRequestError,
    LogEntry,
    OverloadedError,
    PolicyRefusedError,
    Settings,
)
from sandbox.call import Call
from sandbox.cancellation import Cancellation
from sandbox.engine.steps import BLOCKING
from sandbox.executions.model import Execution, ExecutionQuery
from sandbox.executions.store import ExecutionStore, open_store
from sandbox.models import AuthContext
from sandbox.protocol.input import file_upload
from sandbox.server.dispatch.dispatcher import Dispatcher
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.engine.steps import Steps

Function = Any


class Functions:
    """What a dispatcher needs of a `Sandbox`: functions by name, each with its `retries`."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Function, int]] = {}

    def add(self, name: str, function: Function, *, retries: int = 0) -> None:
        self.known[name] = (function, retries)

    def function(self, name: str) -> Any:
        if name not in self.known:
            raise FunctionNotFoundError(f"there is no function {name}")
        return SimpleNamespace(name=name, manifest=SimpleNamespace(retries=self.known[name][1]))

    def steps(self, call: Call, **options: Any) -> Steps[FunctionResponse]:
        return self._steps(self.function(call.function).name, call, options)

    def _steps(self, name: str, call: Call, options: dict[str, Any]) -> Steps[FunctionResponse]:
        yield BLOCKING
        options |= {"auth": call.auth, "files": call.files, "timeout": call.timeout}
        answer = self.known[name][0](call.input, **options)
        request_id = str(call.request_id)
        if isinstance(answer, FunctionError):
            return FunctionResponse(request_id=request_id, success=False, error=answer)
        return FunctionResponse(request_id=request_id, success=True, output=answer)


class Notes:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def started(self, execution: Execution, call: Call) -> None:
        self.told.append(("started", execution.status))

    def ended(self, execution: Execution, response: Any, error: Any, call: Call) -> None:
        self.told.append(("ended", execution.status))
        assert (response is None) != (error is None)
        raise RuntimeError("an observer's own failure")


def greet(input: dict[str, Any], **options: Any) -> str:
    options["on_log"](LogEntry(message="greeting"))
    return f"Hello, {input.get('name')}!"


def fail(input: dict[str, Any], **options: Any) -> FunctionError:
    return FunctionError(code="SAD", message="it is what it is")


def endless(input: dict[str, Any], **options: Any) -> FunctionError:
    options["on_log"](LogEntry(message="begun"))
    cancellation: Cancellation = options["cancellation"]
    ended = threading.Event()
    cancellation.on_cancel(ended.set)
    assert ended.wait(30)
    return FunctionError(code="CANCELLED", message="the caller went away")


@pytest.fixture
def functions() -> Functions:
    functions = Functions()
    functions.add("greet", greet)
    functions.add("fail", fail)
    functions.add("endless", endless)
    functions.add("endless-again", endless, retries=1)
    return functions


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def start(
    functions: Functions, notes: Notes, tmp_path: Path
) -> Iterator[Callable[..., Dispatcher]]:
    dispatchers: list[Dispatcher] = []

    def start_one(*, run: bool = True, before: Dispatcher | None = None) -> Dispatcher:
        settings = Settings.model_validate({"store": tmp_path / "store"})
        store = open_store(settings)
        dispatcher = Dispatcher(
            functions,  # type: ignore[arg-type]
            settings,
            store=store,
            observers=[notes],
            before=before,
        )
        dispatchers.append(dispatcher)
        if run:
            dispatcher.start()
        return dispatcher

    yield start_one
    for dispatcher in dispatchers:
        dispatcher.drain(0)


@pytest.fixture
def dispatcher(start: Callable[..., Dispatcher]) -> Dispatcher:
    return start()


def outcome(dispatcher: Dispatcher, id: str) -> Execution:
    *_, last = dispatcher.follow(id)
    assert isinstance(last, Execution)
    return last


def begun(dispatcher: Dispatcher, id: str) -> None:
    assert isinstance(next(dispatcher.follow(id)), LogEntry)


def test_an_invocation_is_answered_recorded_and_told_of(
    dispatcher: Dispatcher, notes: Notes
) -> None:
    heard: list[str] = []
    call = Call(function="greet", input={"name": "Ada"}, caller="key:1", trigger="route")
    response = dispatcher.invoke(call, on_log=lambda entry: heard.append(entry.message))
    recorded = dispatcher.get(response.request_id)
    assert recorded is not None
    assert (recorded.status, recorded.caller, recorded.trigger) == ("succeeded", "key:1", "route")
    assert (recorded.input_bytes, recorded.output_bytes) == (15, 13)
    assert (recorded.response, heard) == (None, ["greeting"])
    assert notes.told == [("started", "running"), ("ended", "succeeded")]


def test_a_failure_of_the_function_is_recorded_and_returned(dispatcher: Dispatcher) -> None:
    response = dispatcher.invoke(Call(function="fail"))
    recorded = dispatcher.get(response.request_id)
    assert recorded is not None
    assert (recorded.status, recorded.code, recorded.message) == (
        "failed",
        "SAD",
        "it is what it is",
    )


def test_a_failure_of_the_platform_is_recorded_and_raised(
    dispatcher: Dispatcher, functions: Functions
) -> None:
    def away(input: Any, **options: Any) -> None:
        raise EngineUnavailableError("the engine is away")

    functions.add("away", away)
    with pytest.raises(EngineUnavailableError):
        dispatcher.invoke(Call(function="away"))
    (recorded,) = dispatcher.list(ExecutionQuery()).executions
    assert (recorded.status, recorded.code) == ("failed", "ENGINE_UNAVAILABLE")


def test_nothing_of_a_defect_is_on_record(dispatcher: Dispatcher, functions: Functions) -> None:
    def broken(input: Any, **options: Any) -> None:
        raise RuntimeError("with a secret")

    functions.add("broken", broken)
    with pytest.raises(RuntimeError):
        dispatcher.invoke(Call(function="broken"))
    submitted = dispatcher.submit(Call(function="broken"))
    outcome(dispatcher, submitted.id)
    found = dispatcher.list(ExecutionQuery()).executions
    assert {execution.code for execution in found} == {"INTERNAL"}
    assert "secret" not in repr(found)


def test_what_does_not_exist_is_refused_and_not_recorded(dispatcher: Dispatcher) -> None:
    for call in (dispatcher.invoke, dispatcher.submit):
        with pytest.raises(FunctionNotFoundError):
            call(Call(function="nothing"))
    assert dispatcher.list(ExecutionQuery()).executions == ()


def test_a_submitted_call_runs_with_all_that_it_had(
    dispatcher: Dispatcher, functions: Functions
) -> None:
    seen: dict[str, Any] = {}

    def look(input: Any, **options: Any) -> None:
        seen.update(options, input=input)

    functions.add("look", look)
    file = file_upload(name="f", filename="a.txt", content_type="text/plain", content=b"a")
    call = Call(function="look", input={"a": [1]}, files=(file,), auth={"id": "me"}, timeout=2.5)
    assert outcome(dispatcher, dispatcher.submit(call).id).status == "succeeded"
    assert seen["input"] == {"a": [1]}
    assert seen["files"] == [file]
    assert AuthContext.model_validate(seen["auth"]).id == "me"
    assert seen["timeout"] == 2.5


def test_the_platforms_failure_waits_and_is_no_attempt(
    dispatcher: Dispatcher, functions: Functions, notes: Notes
) -> None:
    failures = [EngineUnavailableError("away")]

    def away_once(input: Any, **options: Any) -> str:
        if failures:
            raise failures.pop()
        return "there"

    functions.add("away-once", away_once)
    ended = outcome(dispatcher, dispatcher.submit(Call(function="away-once")).id)
    assert (ended.status, ended.attempts, ended.code) == ("succeeded", 1, None)
    assert [status for kind, status in notes.told if kind == "ended"] == ["queued", "succeeded"]


def test_what_a_retry_cannot_help_is_not_retried(
    dispatcher: Dispatcher, functions: Functions
) -> None:
    def refused(input: Any, **options: Any) -> None:
        raise PolicyRefusedError("not allowed here")

    functions.add("refused", refused, retries=5)
    ended = outcome(dispatcher, dispatcher.submit(Call(function="refused")).id)
    assert (ended.status, ended.attempts, ended.code) == ("dead", 1, "POLICY_REFUSED")


def test_only_a_dead_one_is_retried_by_hand(dispatcher: Dispatcher, functions: Functions) -> None:
    failures = [PolicyRefusedError("not allowed here")]

    def refused_once(input: Any, **options: Any) -> str:
        if failures:
            raise failures.pop()
        return "allowed"

    functions.add("refused-once", refused_once, retries=5)
    dead = outcome(dispatcher, dispatcher.submit(Call(function="refused-once")).id)
    assert dead.status == "dead"
    assert dispatcher.retry(dead.id).status == "queued"
    assert outcome(dispatcher, dead.id).status == "succeeded"
    with pytest.raises(InvalidRequestError, match="only an execution that is dead"):
        dispatcher.retry(dead.id)


def test_a_cancelled_one_is_not_retried(dispatcher: Dispatcher) -> None:
    one_id = dispatcher.submit(Call(function="endless-again")).id
    begun(dispatcher, one_id)
    assert dispatcher.cancel(one_id)
    assert outcome(dispatcher, one_id).status == "cancelled"
    assert not dispatcher.cancel(one_id)


def test_a_function_that_answers_cancelled_has_failed(
    dispatcher: Dispatcher, functions: Functions
) -> None:
    """The code alone says nothing: it may be the function's own."""
    functions.add("liar", lambda _, **options: FunctionError(code="CANCELLED", message="ha"))
    response = dispatcher.invoke(Call(function="liar"))
    recorded = dispatcher.get(response.request_id)
    assert recorded is not None
    assert recorded.status == "failed"
    assert outcome(dispatcher, dispatcher.submit(Call(function="liar")).id).status == "failed"


def test_whoever_waits_can_cancel(dispatcher: Dispatcher) -> None:
    cancellation = Cancellation()
    threading.Timer(0.05, cancellation.cancel).start()
    response = dispatcher.invoke(Call(function="endless"), cancellation=cancellation)
    recorded = dispatcher.get(response.request_id)
    assert recorded is not None
    assert (recorded.status, recorded.code) == ("cancelled", "CANCELLED")


def test_another_server_on_the_database_can_cancel(start: Callable[..., Dispatcher]) -> None:
    one, other = start(), start(run=False)
    one_id = one.submit(Call(function="endless")).id
    begun(one, one_id)
    assert other.cancel(one_id)
    assert outcome(other, one_id).status == "cancelled"


def test_what_still_runs_at_the_one_before_is_seen_and_cancelled_at_the_next(
    start: Callable[..., Dispatcher],
) -> None:
    before = start()
    old = before.submit(Call(function="endless", request_id="old")).id
    begun(before, old)
    after = start(before=before)
    begun(after, old)
    with pytest.raises(InvalidRequestError, match="of that id"):
        after.invoke(Call(function="greet", request_id="old"))
    assert (before.running, after.running) == (1, 1)
    # Each waits for its own: this one has nothing to wait for, or to end.
    after.drain(0)
    assert before.running == 1
    assert after.cancel(old)
    assert outcome(before, old).status == "cancelled"
    assert (before.running, after.running) == (0, 0)


def test_an_id_serves_one_at_a_time(dispatcher: Dispatcher) -> None:
    dispatcher.submit(Call(function="endless", request_id="one"))
    begun(dispatcher, "one")
    with pytest.raises(InvalidRequestError, match="of that id"):
        dispatcher.invoke(Call(function="greet", request_id="one"))
    with pytest.raises(InvalidRequestError, match="of that id"):
        dispatcher.submit(Call(function="greet", request_id="one"))


def test_an_input_that_is_too_large_never_gets_into_the_queue(dispatcher: Dispatcher) -> None:
    with pytest.raises(InvalidRequestError, match="are allowed"):
        dispatcher.submit(Call(function="greet", input={"name": "x" * 9_000_000}))
    assert dispatcher.list(ExecutionQuery()).executions == ()


def test_drained_it_takes_nothing_and_the_next_server_goes_on(
    start: Callable[..., Dispatcher],
) -> None:
    one = start()
    running = [one.submit(Call(function="endless")).id for _ in range(2)]
    running += [one.submit(Call(function="endless-again")).id for _ in range(2)]
    for each in running:
        begun(one, each)
    waiting = one.submit(Call(function="greet")).id
    one.drain(0)
    for call in (one.invoke, one.submit):
        with pytest.raises(OverloadedError):
            call(Call(function="greet"))
    other = start(run=False)
    statuses = {
        execution.id: execution.status for execution in other.list(ExecutionQuery()).executions
    }
    assert [statuses[each] for each in running] == ["cancelled"] * 2 + ["retrying"] * 2
    assert statuses[waiting] == "queued"
    other.start()
    assert outcome(other, waiting).status == "succeeded"


def test_what_runs_may_finish_while_it_drains(
    start: Callable[..., Dispatcher], functions: Functions
) -> None:
    go = threading.Event()

    def slow(input: Any, **options: Any) -> str:
        options["on_log"](LogEntry(message="begun"))
        assert go.wait(30)
        return "done"

    functions.add("slow", slow)
    one = start()
    one_id = one.submit(Call(function="slow")).id
    begun(one, one_id)
    threading.Timer(0.05, go.set).start()
    one.drain(30)
    recorded = start(run=False).get(one_id)
    assert recorded is not None
    assert recorded.status == "succeeded"


def test_a_server_that_comes_back_from_the_dead_changes_nothing(
    start: Callable[..., Dispatcher], notes: Notes
) -> None:
    """Another took its execution for lost: what it says of it then is not heard."""
    one, other = start(), start(run=False)
    one_id = one.submit(Call(function="endless")).id
    begun(one, one_id)
    store: ExecutionStore = other._store
    lost = one.get(one_id)
    assert lost is not None
    assert store.queue.recover({one._store.server.id}) == 1
    assert one.cancel(one_id)
    wait_until(lambda: one.running == 0)
    recorded = other.get(one_id)
    assert recorded is not None
    assert recorded.message == "the server that ran it ended before it did"
    assert ("ended", "cancelled") not in notes.told
    assert replace(recorded, status="running").created_at == lost.created_at
