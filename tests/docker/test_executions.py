"""Background executions in real containers, and a server that is killed meanwhile."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sandbox import LogEntry, Sandbox, Settings
from sandbox.call import Call
from sandbox.executions.model import ENDED, ExecutionQuery
from sandbox.executions.store import open_store
from sandbox.server.dispatch.dispatcher import Dispatcher
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.executions.model import Execution

HANDLER = """
import time
def handler(input, ctx):
    ctx.log.info(f"begin {input['number']}", None)
    time.sleep(input.get("seconds", 0.02))
    if input.get("fail"):
        raise ValueError("as asked")
    return input["number"]
"""
MANIFEST = "reuse: 1000\nretries: {retries}\ntimeout: 20s\n"

# A server of nothing but the queue: submits, says so, and runs until it is killed.
SERVER = """
import json, sys, threading
from sandbox import Sandbox, Settings
from sandbox.call import Call
from sandbox.executions.store import open_store
from sandbox.server.dispatch.dispatcher import Dispatcher

functions, settings, calls = json.loads(sys.argv[1])
settings = Settings.model_validate(settings)
dispatcher = Dispatcher(Sandbox(functions, settings=settings), settings, store=open_store(settings))
dispatcher.start()
for name, number in calls:
    dispatcher.submit(Call(function=name, input={"number": number}))
print("submitted", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def plain(store: Path, tmp_path: Path) -> dict[str, object]:
    """The settings as a document, which another process can be given too."""
    return {
        "store": str(store),
        "concurrency": 2,
        "ceilings": {"reuse": 1000},
        "server": {"executions": {"database": f"sqlite:///{tmp_path}/executions.db", "workers": 2}},
    }


@pytest.fixture
def start(
    functions: Path, write: Callable[..., None], engine: DockerEngine, plain: dict[str, object]
) -> Iterator[Callable[[], Dispatcher]]:
    """`start()` starts a dispatcher on a real sandbox."""
    for name, retries in (("once", 0), ("again", 2)):
        write(f"{name}/index.py", HANDLER)
        write(f"{name}/function.yaml", MANIFEST.format(retries=retries))
    started: list[tuple[Dispatcher, Sandbox]] = []

    def start_one() -> Dispatcher:
        settings = Settings.model_validate(plain)
        sandbox = Sandbox(functions, settings=settings, engine=engine)
        dispatcher = Dispatcher(sandbox, settings, store=open_store(settings))
        dispatcher.start()
        started.append((dispatcher, sandbox))
        return dispatcher

    yield start_one
    for dispatcher, sandbox in started:
        dispatcher.drain(0)
        sandbox.close()


def ended(dispatcher: Dispatcher, id: str) -> Execution:
    *_, last = dispatcher.follow(id)
    assert not isinstance(last, LogEntry)
    return last


def test_a_killed_server_loses_none_of_a_hundred_and_each_ends_once(
    start: Callable[[], Dispatcher],
    functions: Path,
    plain: dict[str, object],
    tmp_path: Path,
) -> None:
    database = sqlite3.connect(tmp_path / "executions.db", isolation_level=None, timeout=30)
    settings = Settings.model_validate(plain)
    open_store(settings).close()
    # The database itself notes every end, whoever brings it about.
    statuses = ", ".join(f"'{status}'" for status in sorted(ENDED))
    database.executescript(
        "CREATE TABLE ends (id TEXT, status TEXT);"
        "CREATE TRIGGER note AFTER UPDATE OF status ON executions"
        f" WHEN NEW.status IN ({statuses})"
        " BEGIN INSERT INTO ends VALUES (NEW.id, NEW.status); END;"
    )

    def count(query: str) -> int:
        value: int = database.execute(query).fetchone()[0]
        return value

    calls = [("again" if number % 2 else "once", number) for number in range(100)]
    document = json.dumps([str(functions), plain, calls])
    server = subprocess.Popen([sys.executable, "-c", SERVER, document], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"submitted\n"
        deadline = time.monotonic() + 120
        while count("SELECT count(*) FROM ends") < 30 or not count(
            "SELECT count(*) FROM executions WHERE status = 'running'"
        ):
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.005)
    finally:
        server.kill()
        server.communicate()
    assert count("SELECT count(*) FROM ends") < 100, "it was to be killed in the middle"
    left_running = count("SELECT count(*) FROM executions WHERE status = 'running'")
    assert left_running <= 2

    dispatcher = start()
    wait_until(lambda: count("SELECT count(DISTINCT id) FROM ends") == 100, seconds=120)
    assert count("SELECT count(*) FROM ends") == 100, "each ended once"
    assert count("SELECT count(*) FROM executions") == 100
    assert count("SELECT count(*) FROM execution_inputs") == 0
    page = dispatcher.list(ExecutionQuery(limit=1000))
    by_number: dict[object, str] = {}
    for listed in page.executions:
        execution = dispatcher.get(listed.id)
        assert execution is not None
        if execution.status == "cancelled":
            # What it ran for `once` at that moment: nobody knows how far that came.
            assert (execution.function, execution.code) == ("once", "CANCELLED")
            assert execution.message == "the server that ran it ended before it did"
        else:
            assert execution.status == "succeeded"
            assert execution.response is not None
            by_number[execution.response["output"]] = execution.function
    cancelled = [item for item in page.executions if item.status == "cancelled"]
    again = [item for item in page.executions if item.attempts > 1]
    assert len(cancelled) + len(again) == left_running
    assert all(item.function == "again" for item in again)
    assert len(by_number) == 100 - len(cancelled)


def test_an_execution_is_followed_live_and_its_output_is_kept(
    start: Callable[[], Dispatcher],
) -> None:
    dispatcher = start()
    submitted = dispatcher.submit(Call(function="once", input={"number": 7, "seconds": 0.5}))
    follower = dispatcher.follow(submitted.id)
    first = next(follower)
    running = dispatcher.get(submitted.id)
    assert isinstance(first, LogEntry)
    assert first.message == "begin 7"
    assert running is not None
    assert running.status == "running"
    *_, last = follower
    assert not isinstance(last, LogEntry)
    assert (last.status, last.output_bytes) == ("succeeded", 1)
    assert last.response is not None
    assert last.response["output"] == 7
    assert "begin 7" in last.log_tail
    # One that somebody waits for: recorded as well, its output is not.
    response = dispatcher.invoke(Call(function="once", input={"number": 8}, caller="key:1"))
    (recorded,) = dispatcher.list(ExecutionQuery(caller="key:1")).executions
    assert (recorded.id, recorded.status) == (response.request_id, "succeeded")
    assert recorded.version == response.stats.version
    again = dispatcher.get(recorded.id)
    assert again is not None
    assert again.response is None


def test_one_that_runs_is_killed_and_one_that_waits_never_runs(
    start: Callable[[], Dispatcher],
) -> None:
    dispatcher = start()
    calls = [Call(function="again", input={"number": n, "seconds": 15}) for n in range(3)]
    ids = [dispatcher.submit(call).id for call in calls]
    for running in ids[:2]:
        next(dispatcher.follow(running))  # its first line: it runs
    assert [*map(dispatcher.cancel, reversed(ids))] == [True, True, True]
    for one in ids:
        execution = ended(dispatcher, one)
        assert (execution.status, execution.code) == ("cancelled", "CANCELLED")
    waited = dispatcher.get(ids[2])
    assert waited is not None
    assert (waited.attempts, waited.started_at) == (0, None)
    assert not dispatcher.cancel(ids[0])


def test_one_that_fails_for_the_last_time_is_dead_and_can_be_retried(
    start: Callable[[], Dispatcher],
) -> None:
    dispatcher = start()
    call = {"number": 1, "fail": True}
    without = dispatcher.submit(Call(function="once", input=call))
    with_retries = dispatcher.submit(Call(function="again", input=call))
    assert ended(dispatcher, without.id).status == "failed"
    dead = ended(dispatcher, with_retries.id)
    assert (dead.status, dead.attempts, dead.code) == ("dead", 3, "FUNCTION_ERROR")
    assert [item.id for item in dispatcher.list(ExecutionQuery(status="dead")).executions] == [
        dead.id
    ]
    assert dispatcher.retry(dead.id).status == "queued"
    assert dispatcher.cancel(dead.id)
    assert ended(dispatcher, dead.id).status in ("cancelled", "dead")


def test_no_secret_gets_on_record(
    start: Callable[[], Dispatcher],
    write: Callable[..., None],
    plain: dict[str, object],
    tmp_path: Path,
) -> None:
    """Not from `env`, though it is logged and thrown; an input is there until it has run."""
    secret, waiting = "a-canary-of-the-operator", "a-canary-in-an-input"
    (tmp_path / "secrets.yaml").write_text(f"KEY: {secret}\n")
    plain["secrets_file"] = str(tmp_path / "secrets.yaml")
    write(
        "leaky/index.py",
        "def handler(input, ctx):\n"
        "    ctx.log.info(ctx.env['KEY'], {'key': ctx.env['KEY']})\n"
        "    raise ValueError('cannot use ' + ctx.env['KEY'])\n",
    )
    write("leaky/function.yaml", "env: {KEY: '${KEY}'}\nretries: 0\n")
    dispatcher = start()
    dispatcher.submit(Call(function="once", input={"number": 1, "seconds": 0.5}))
    submitted = dispatcher.submit(Call(function="leaky", input={"canary": waiting}))
    assert on_disk(tmp_path, waiting), "the control: it has to be there until it has run"
    execution = ended(dispatcher, submitted.id)
    assert execution.message == "cannot use [secret KEY]"
    assert "[secret KEY]" in execution.log_tail
    dispatcher.drain(30)
    assert not on_disk(tmp_path, secret)
    assert not on_disk(tmp_path, waiting)


def on_disk(directory: Path, text: str) -> bool:
    return any(text.encode() in file.read_bytes() for file in directory.glob("executions.db*"))
