"""The command line against the real engine, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.store.owners import LABEL_FUNCTION, LABEL_STORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.docker.engine import DockerEngine

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "functions"

Process = "subprocess.CompletedProcess[str]"
SLEEPS = "import sys, time\nprint('asleep', file=sys.stderr, flush=True)\ntime.sleep(60)\n"


@pytest.fixture
def environment(store: Path) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SANDBOX_")}
    return clean | {"SANDBOX_STORE": str(store), "SANDBOX_FUNCTIONS": str(EXAMPLES)}


@pytest.fixture
def sandbox(environment: dict[str, str], tmp_path: Path) -> Callable[..., Process]:
    """`sandbox("invoke", "hello-python")` runs the command away from any project."""

    def run(*arguments: object, stdin: str = "", **variables: str) -> Process:
        return subprocess.run(
            [sys.executable, "-m", "sandbox_cli", *map(str, arguments)],
            input=stdin, env=environment | variables, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


Sandbox = "Callable[..., Process]"


def test_output_goes_to_stdout_and_figures_to_stderr(sandbox: Sandbox) -> None:
    ended = sandbox("invoke", "hello-python", "-d", '{"name": "Wörld"}')
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["message"] == "Hello, Wörld! (from Python)"
    assert re.fullmatch(
        r"succeeded in \d+ ms · cold · \S+mb · (crun|runc) · version [0-9a-f]{12}\n", ended.stderr
    )


def test_with_json_stdout_is_the_response_and_nothing_else(sandbox: Sandbox) -> None:
    ended = sandbox("invoke", "handler-python", "-d", '{"name": "World"}', "--json")
    assert ended.returncode == 0
    assert ended.stderr == ""
    document = json.loads(ended.stdout)
    assert document["success"] is True
    assert document["output"]["message"] == "Hello, World! (from a Python handler)"
    assert document["stats"]["cold"] is True
    assert ended.stdout.count("\n") == 1


def test_a_function_that_fails_ends_with_1(sandbox: Sandbox) -> None:
    ended = sandbox("invoke", "failing", "-d", '{"email": ""}')
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "error: VALIDATION_ERROR: Email is required\n  field: email\n" in ended.stderr
    assert "\nfailed in " in ended.stderr

    ended = sandbox("invoke", "failing", "--json")
    assert ended.returncode == 1
    document = json.loads(ended.stdout)
    assert document["error"] == {
        "code": "VALIDATION_ERROR", "message": "Email is required", "details": {"field": "email"},
    }  # fmt: skip


def test_one_file_runs_without_a_project(sandbox: Sandbox, tmp_path: Path) -> None:
    script = tmp_path / "my script.py"
    script.write_text("def handler(ctx):\n    return {'twice': ctx.input['n'] * 2}\n")
    ended = sandbox("run", script, "-d", '{"n": 21}')
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == {"twice": 42}


def test_a_function_s_directory_runs_without_a_project(sandbox: Sandbox) -> None:
    ended = sandbox("run", EXAMPLES / "hello-node", "-d", '{"name": "you"}')
    assert json.loads(ended.stdout)["message"] == "Hello, you! (from Node.js)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_the_container(
    number: signal.Signals,
    *,
    environment: dict[str, str],
    write: Callable[..., None],
    functions: Path,
    engine: DockerEngine,
    store: Path,
) -> None:
    write("sleeps/index.py", SLEEPS)
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox_cli", "invoke", "sleeps", "--functions", str(functions)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "asleep" in process.stderr.readline()
        ours = {LABEL_STORE: (store / "id").read_text(), LABEL_FUNCTION: "sleeps"}
        assert len(engine.containers(ours)) == 1
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert engine.containers(ours) == []


def test_no_engine_at_that_address_says_how_to_mend_it(sandbox: Sandbox, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nothing.sock"
    for command in (["invoke", "hello-python"], ["images", "list"]):
        ended = sandbox(*command, DOCKER_HOST=nowhere)
        assert ended.returncode == 3
        assert "ENGINE_UNAVAILABLE" in ended.stderr
        assert "  hint: " in ended.stderr


def test_images_are_listed_with_state_version_and_size(sandbox: Sandbox) -> None:
    images = json.loads(sandbox("images", "list", "--json").stdout)
    python = next(image for image in images if image["name"] == "python")
    assert python["state"] == "ready"
    assert python["size"] > 2**20
    table = sandbox("images", "list").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "VERSION", "SIZE", "REFERENCE"]
    assert len(table) == len(images) + 1


def test_building_what_is_up_to_date_says_so_and_does_nothing(sandbox: Sandbox) -> None:
    ended = sandbox("images", "build", "python")
    assert ended.returncode == 0
    assert re.fullmatch(r"python +up to date +[0-9.]+mb\n", ended.stdout)


def test_the_doctor_finds_nothing_wrong(sandbox: Sandbox) -> None:
    ended = sandbox("doctor", "--json")
    document = json.loads(ended.stdout)
    found = {check["name"]: check for check in document["checks"]}
    assert [check for check in found.values() if check["status"] == "fail"] == []
    assert document["healthy"] is True
    assert ended.returncode == 0
    assert found.keys() >= {
        "engine", "runtime class", "containers", "user", "capabilities", "system calls",
        "network", "root file system", "memory limit", "process limit", "file limit", "time limit",
    }  # fmt: skip


def test_the_doctor_says_how_to_mend_what_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    ended = sandbox("doctor", DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    assert ended.returncode == 3
    assert ended.stdout.startswith("fail  engine ")
    assert "hint: " in ended.stdout
