"""What a function gets as its internal token, and until when it is worth anything."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, Settings
from sandbox.call import Call
from sandbox.cancellation import Cancellation
from sandbox.errors import OverloadedError
from sandbox.executions.model import Execution
from sandbox.executions.store import open_store
from sandbox.server.dispatch.dispatcher import Dispatcher
from sandbox.tokens import InvalidTokenError, Tokens, load_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.models import LogEntry

# Answers with its token, in two parts so that nobody takes it for a leak, and waits before that
# until it is killed, where it is told to.
FUNCTION = """
import json, os, sys, time
request = json.load(sys.stdin)
token = request["context"]["internal_token"]
half = len(token) // 2
print(json.dumps([token[:half], token[half:]]), file=sys.stderr, flush=True)
print("Authorization: Bearer " + token, file=sys.stderr, flush=True)
if request["input"].get("end") == "crash":
    raise SystemExit(f"no luck with {token}")
if request["input"].get("end") == "sleep":
    time.sleep(600)
print(json.dumps({"success": True, "output": token[half:] if request["input"] else token}))
"""


class Watched(Tokens):
    """Tokens, and all that were generated."""

    def __init__(self) -> None:
        super().__init__(key=load_key(None))
        self.generated: list[str] = []

    def generate(self, function: str, request_id: str, deadline: float) -> str:
        token = super().generate(function, request_id, deadline)
        self.generated.append(token)
        return token


@pytest.fixture
def tokens() -> Watched:
    return Watched()


@pytest.fixture
def sandbox(
    functions: Path,
    write: Callable[..., None],
    engine: DockerEngine,
    settings: Settings,
    tokens: Watched,
) -> Iterator[Sandbox]:
    write("tell/index.py", FUNCTION)
    write("broken/index.py", "")
    write(
        "broken/function.yaml", "build: {command: 'false', output: out}\nentrypoint: out/index.py\n"
    )
    settings = settings.model_copy(update={"concurrency": 1})
    with Sandbox(functions, settings=settings, engine=engine, tokens=tokens) as sandbox:
        yield sandbox


def test_a_token_is_valid_while_its_function_runs_and_never_after(
    sandbox: Sandbox, tokens: Watched, engine: DockerEngine
) -> None:
    seen: list[tuple[str, float]] = []
    inspected: list[str] = []

    def on_log(entry: LogEntry) -> None:
        if entry.message.startswith("Authorization"):
            claims = tokens.validate(tokens.generated[-1], function="tell")
            seen.append((claims.request_id, claims.expires_at - claims.issued_at))
            inspected.extend(engine.describe(item.id) for item in engine.containers({}))

    response = sandbox.invoke("tell", request_id="req_1", timeout=7, on_log=on_log)
    (token,) = tokens.generated
    assert response.output == token
    assert seen[0][0] == "req_1"
    assert 7 <= seen[0][1] <= 9  # the invocation's own deadline, in whole seconds
    with pytest.raises(InvalidTokenError):
        tokens.validate(token)
    assert tokens.count == 0
    # It is in the request and nowhere else, as far as that is ours to say.
    assert inspected
    assert not [text for text in inspected if token in text]
    logged = [entry.message for entry in response.logs]
    assert "Authorization: Bearer [secret internal_token]" in logged
    # The control: in two halves it is there, so the function had it.
    assert any(token[: len(token) // 2] in message for message in logged)


def test_no_token_is_on_record(sandbox: Sandbox, tokens: Watched, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/record/executions.db"
    settings = Settings.model_validate({"server": {"executions": {"database": database}}})
    dispatcher = Dispatcher(sandbox, settings, store=open_store(settings))
    dispatcher.start()
    dispatcher.invoke(Call(function="tell", input={"end": "crash"}))
    *_, last = dispatcher.follow(dispatcher.submit(Call(function="tell", input={"a": 1})).id)
    dispatcher.drain(30)
    assert isinstance(last, Execution)
    assert last.status == "succeeded"
    assert "[secret internal_token]" in last.log_tail
    content = b"".join(file.read_bytes() for file in (tmp_path / "record").iterdir())
    assert len(tokens.generated) == 2
    for token in tokens.generated:
        signature = token.rpartition(".")[2].encode()
        assert signature[:-8] in content  # the control: in halves the function has logged it
        assert token.encode() not in content


def test_however_an_invocation_ends_its_token_ends_with_it(
    sandbox: Sandbox, tokens: Watched
) -> None:
    running = threading.Event()
    cancellation = Cancellation()
    crashed = sandbox.invoke("tell", {"end": "crash"})
    late = sandbox.invoke("tell", {"end": "sleep"}, timeout=1.5)
    cancelling = threading.Thread(target=lambda: (running.wait(60), cancellation.cancel()))
    cancelling.start()
    cancelled = sandbox.invoke(
        "tell", {"end": "sleep"}, on_log=lambda _: running.set(), cancellation=cancellation
    )
    cancelling.join()
    built = sandbox.invoke("broken")
    codes = [item.error and item.error.code for item in (crashed, late, cancelled, built)]
    assert codes == ["FUNCTION_CRASHED", "TIMEOUT", "CANCELLED", "BUILD_FAILED"]
    assert len(tokens.generated) == 3  # what could not be built was never invoked
    assert tokens.generated[0] not in crashed.to_json()
    assert tokens.count == 0


def test_one_that_is_refused_leaves_no_token(
    functions: Path, write: Callable[..., None], engine: DockerEngine, settings: Settings
) -> None:
    write("tell/index.py", FUNCTION)
    tokens, running, end = Watched(), threading.Event(), Cancellation()
    none_may_wait = {"concurrency": 1, "queue": settings.queue.model_copy(update={"length": 0})}
    settings = settings.model_copy(update=none_may_wait)
    with Sandbox(functions, settings=settings, engine=engine, tokens=tokens) as sandbox:
        first = threading.Thread(
            target=sandbox.invoke,
            args=("tell", {"end": "sleep"}),
            kwargs={"on_log": lambda _: running.set(), "cancellation": end},
        )
        first.start()
        assert running.wait(60)
        with pytest.raises(OverloadedError):
            sandbox.invoke("tell")
        assert tokens.count == 1
        end.cancel()
        first.join()
    assert tokens.count == 0
    assert len(tokens.generated) == 2


def test_without_tokens_it_is_empty(invoke: Callable, write: Callable[..., None]) -> None:
    write("tell/index.py", FUNCTION)
    assert invoke("tell").output == ""
