from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Settings
from sandbox.call import Call
from sandbox.executions.model import Execution
from sandbox.executions.store import ExecutionStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

ID = "req_0123456789abcdef0123"


@pytest.fixture
def store(project: Path) -> Iterator[ExecutionStore]:
    """The record that the command finds, as a server has it open."""
    store = open_store(Settings.model_validate({"store": project / "store"}))
    yield store
    store.close()


def submit(store: ExecutionStore, id: str, *, retries: int = 0) -> Execution:
    execution = Execution(
        id=id,
        function="a-function-with-a-long-name",
        caller="anonymous",
        trigger="http",
        status="queued",
        created_at=store.clock(),
    )
    store.queue.put(execution, Call(function=execution.function), retries=retries)
    return execution


def end(store: ExecutionStore, id: str, status: str = "succeeded", **fields: Any) -> None:
    claimed = store.queue.claim()
    assert claimed is not None
    ended = replace(claimed.execution, status=status, ended_at=store.clock(), **fields)
    assert store.queue.finish(claimed, ended)


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_list_has_eighty_columns(sandbox: Callable[..., Result], store: ExecutionStore) -> None:
    submit(store, ID, retries=1)
    end(store, ID, "dead", code="FUNCTION_ERROR")
    result = sandbox("executions", "list")
    assert result.exit_code == 0
    header, line = result.stdout.splitlines()
    assert header.split() == ["ID", "FUNCTION", "STATUS", "AGE", "CODE"]
    assert line.split()[::2] == [ID, "dead", "FUNCTION_ERROR"]
    assert len(line) <= 80


def test_lists_are_narrowed_and_go_on(
    sandbox: Callable[..., Result], store: ExecutionStore
) -> None:
    for number in range(3):
        submit(store, f"e{number}")
    end(store, "e0")
    page = document(sandbox("executions", "list", "--limit", "2", "--json"))
    assert [item["id"] for item in page["executions"]] == ["e2", "e1"]
    rest = document(sandbox("executions", "list", "--before", page["next"], "--json"))
    assert [item["id"] for item in rest["executions"]] == ["e0"]
    found = document(sandbox("executions", "list", "--status", "queued", "--json"))
    assert len(found["executions"]) == 2
    assert document(sandbox("executions", "list", "nothing", "--json"))["executions"] == []


def test_one_is_shown_with_its_log(sandbox: Callable[..., Result], store: ExecutionStore) -> None:
    submit(store, ID)
    end(store, ID, log_tail="- info one\n- info \x1b[31mtwo", code="X", message="why")
    result = sandbox("executions", "show", ID)
    assert "message   why" in result.stdout
    assert "\\u001b[31mtwo" in result.stdout
    assert document(sandbox("executions", "show", ID, "--json"))["status"] == "succeeded"


def test_one_that_waits_is_cancelled(sandbox: Callable[..., Result], store: ExecutionStore) -> None:
    submit(store, ID)
    assert document(sandbox("executions", "cancel", ID, "--json"))["status"] == "cancelled"
    again = sandbox("executions", "cancel", ID)
    assert (again.exit_code, "is cancelled already" in again.stderr) == (2, True)


def test_one_that_runs_is_asked_to_end(
    sandbox: Callable[..., Result], store: ExecutionStore
) -> None:
    submit(store, ID)
    assert store.queue.claim() is not None
    assert sandbox("executions", "cancel", ID).exit_code == 0
    assert store.queue.asked_to_cancel() == [ID]


def test_only_a_dead_one_is_retried(sandbox: Callable[..., Result], store: ExecutionStore) -> None:
    submit(store, ID, retries=1)
    refused = sandbox("executions", "retry", ID)
    assert (refused.exit_code, "only a dead one" in refused.stderr) == (2, True)
    end(store, ID, "dead")
    assert document(sandbox("executions", "retry", ID, "--json"))["status"] == "queued"


@pytest.mark.parametrize("command", ["show", "cancel", "retry"])
def test_one_that_nobody_knows_is_told(sandbox: Callable[..., Result], command: str) -> None:
    result = sandbox("executions", command, "nobody")
    assert result.exit_code == 2
    assert "there is no execution nobody" in result.stderr


def test_logs_are_those_that_ended_oldest_first(
    sandbox: Callable[..., Result], store: ExecutionStore
) -> None:
    for number in range(3):
        submit(store, f"e{number}")
        if number < 2:
            end(store, f"e{number}", log_tail=f"- info line {number}")
    lines = sandbox("logs").stdout.splitlines()
    assert [line.strip() for line in lines if "line" in line] == ["- info line 0", "- info line 1"]
    assert [item["id"] for item in document(sandbox("logs", "-n", "1", "--json"))] == ["e1"]
    assert document(sandbox("logs", "other", "--json")) == []


def test_logs_go_on_with_executions_as_they_end(store: ExecutionStore, project: Path) -> None:
    submit(store, "e0")
    end(store, "e0", log_tail="- info before")
    command = [sys.executable, "-m", "sandbox_cli", "logs", "-f", "--json"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == "e0"
        submit(store, "e1")
        end(store, "e1", log_tail="- info live")
        assert json.loads(process.stdout.readline())["log_tail"] == "- info live"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
    assert process.returncode == 130
