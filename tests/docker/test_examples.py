"""Every example answers as its comments say, through the library; so do those of the README."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, Settings
from sandbox.models import FileUpload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.engine.docker.engine import DockerEngine

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

HELLO = {
    "hello-python": ("Hello, {}! (from Python)", "python"),
    "hello-node": ("Hello, {}! (from Node.js)", "node"),
    "hello-deno": ("Hello, {}! (from Deno)", "deno"),
    "hello-bun": ("Hello, {}! (from Bun)", "bun"),
    "hello-go": ("Hello, {}! (from Go)", "go"),
    "hello-binary": ("Hello, {}! (from a binary)", "binary"),
}
HANDLERS = {
    "handler-python": "Hello, {}! (from a Python handler)",
    "handler-node": "Hello, {}! (from a Node.js handler)",
    "handler-deno": "Hello, {}! (from a Deno handler)",
    "handler-bun": "Hello, {}! (from a Bun handler)",
    "handler-go": "Hello, {}! (from a Go handler)",
    "handler-binary": "Hello, {}! (from a binary handler)",
}
OTHERS = {"file-info", "failing", "daily-report"}


@pytest.fixture(scope="module")
def sandbox(settings: Settings, engine: DockerEngine) -> Iterator[Sandbox]:
    with Sandbox(EXAMPLES / "functions", settings=settings, engine=engine) as sandbox:
        yield sandbox


def test_all_examples_are_found_and_none_has_a_problem(sandbox: Sandbox) -> None:
    assert list(sandbox.problems) == []
    assert set(sandbox.functions) == HELLO.keys() | HANDLERS.keys() | OTHERS
    for name, function in sandbox.functions.items():
        assert function.interface == ("handler" if name in HANDLERS else function.interface)
        assert not (name in HELLO and function.interface == "handler")


@pytest.mark.parametrize("name", HELLO)
def test_a_stdio_example_greets(name: str, sandbox: Sandbox) -> None:
    message, runtime = HELLO[name]
    response = sandbox.invoke(name, {"name": 'Wörld "☕"'})
    assert response.success, response.error
    assert response.output["message"] == message.format('Wörld "☕"')
    assert response.output["runtime"] == runtime
    assert sandbox.invoke(name).output["message"] == message.format("World")


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_example_greets(name: str, sandbox: Sandbox) -> None:
    message = HANDLERS[name]
    response = sandbox.invoke(name, {"name": 'Wörld "☕"'})
    assert response.success, response.error
    assert response.output["message"] == message.format('Wörld "☕"')
    assert any("greeting" in entry.message for entry in response.logs)
    assert sandbox.invoke(name).output["message"] == message.format("World")


@pytest.mark.parametrize("name", sorted(HANDLERS.keys() - {"handler-binary"}))
def test_a_handler_example_knows_its_caller(name: str, sandbox: Sandbox) -> None:
    auth = {"id": "user_123", "email": "user@example.com", "role": "admin"}
    assert sandbox.invoke(name, auth=auth).output["caller"] == "user@example.com"
    assert sandbox.invoke(name).output["caller"] == "anonymous"


def test_file_info_describes_uploaded_files(sandbox: Sandbox) -> None:
    data = "first line, ünïcode\nsecond\n".encode()
    upload = FileUpload(
        name="document",
        filename="notes.txt",
        content_type="text/plain",
        size=len(data),
        data=base64.b64encode(data).decode(),
    )
    assert sandbox.invoke("file-info", files=[upload]).output == {
        "files": [
            {
                "name": "document",
                "filename": "notes.txt",
                "content_type": "text/plain",
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "first_line": "first line, ünïcode",
            }
        ],
        "total_size": len(data),
    }
    assert sandbox.invoke("file-info").output == {"files": [], "total_size": 0}


def test_failing_shows_both_kinds_of_error(sandbox: Sandbox) -> None:
    response = sandbox.invoke("failing", {"email": ""})
    assert not response.success
    assert response.error.to_dict() == {
        "code": "VALIDATION_ERROR",
        "message": "Email is required",
        "details": {"field": "email"},
    }
    assert any("Traceback" in entry.message for entry in response.logs)
    error = sandbox.invoke("failing", {"email": "a@example.com"}).error
    assert error.code == "FUNCTION_ERROR"
    assert "a@example.com" in error.message


def test_daily_report_runs_on_the_sample_input_of_its_manifest(sandbox: Sandbox) -> None:
    manifest = sandbox.functions["daily-report"].manifest
    response = sandbox.invoke("daily-report", manifest.sample_input)
    assert response.success, response.error
    assert response.output == {"title": "Orders of 2026-01-24", "orders": 2, "total": "20.49 EUR"}
    assert manifest.timeout == 10
    assert manifest.memory == 96 << 20
    warned = sandbox.invoke("daily-report", {"date": "2026-01-25"})
    assert [(entry.level, entry.message) for entry in warned.logs] == [("warn", "no orders")]


def test_the_functions_of_a_schema_file(settings: Settings, engine: DockerEngine) -> None:
    with Sandbox(EXAMPLES / "schema-project", settings=settings, engine=engine) as sandbox:
        assert list(sandbox.problems) == []
        assert set(sandbox.functions) == {"greet", "count"}
        assert sandbox.invoke("greet", {"name": "World"}).output == {"message": "Hello, World!"}
        counted = sandbox.invoke("count", {"text": "one two  three"})
        assert counted.output == {"words": 3}
        assert [entry.data for entry in counted.logs] == [{"words": 3}]


def python(*arguments: str | Path, cwd: Path, store: Path) -> str:
    """What a program prints that uses the library; it must end well and complain of nothing."""
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | {"SANDBOX_STORE": str(store)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_programs_of_the_readme_run(tmp_path: Path, store: Path) -> None:
    programs = re.findall(
        r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL
    )
    assert len(programs) == 2
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/greet.py").write_text("def handler(ctx): return 1\n")
    printed = [python("-c", program, cwd=tmp_path, store=store) for program in programs]
    assert printed[0] == ""
    assert printed[1].startswith("ReloadEvent(added=('greet',), ")


def test_the_example_of_hot_reload_shows_its_events(tmp_path: Path, store: Path) -> None:
    assert python(EXAMPLES / "hot_reload.py", cwd=tmp_path, store=store).splitlines() == [
        "added greet", "Hello",
        "changed greet", "Good morning",
        "greet: '(' was never closed (greet.py, line 1)", "Good morning",
    ]  # fmt: skip
