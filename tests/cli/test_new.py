"""`sandbox new`: what it writes is a function without problems, and nothing is overwritten."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from sandbox.config.settings import Settings
from sandbox.deploy.validation import validate
from sandbox.functions.discovery import discover
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from pathlib import Path


Sandbox = "Callable[..., Result]"


@pytest.mark.parametrize("interface", ["handler", "stdio"])
@pytest.mark.parametrize("runtime", [runtime.value for runtime in Runtime])
def test_a_new_function_has_no_problems(
    runtime: str, interface: str, sandbox: Sandbox, project: Path
) -> None:
    result = sandbox("new", "fresh", "--runtime", runtime, "--interface", interface)
    assert result.exit_code == 0, result.output
    assert validate(project / "functions", Settings()).problems == ()
    function = {item.name: item for item in discover(project / "functions").functions}["fresh"]
    assert (function.runtime, function.interface) == (runtime, interface)
    assert function.manifest.sample_input == {"name": "World"}
    assert "sandbox invoke fresh" in (project / "functions/fresh/README.md").read_text()
    for path in (project / "functions/fresh").iterdir():
        assert "$name" not in path.read_text()
        assert os.access(path, os.X_OK) == (runtime == "binary" and path.name == "serve")


def test_detection_would_have_found_the_same_interface(sandbox: Sandbox, project: Path) -> None:
    """So that the manifest can be removed, except where it is what names the runtime."""
    for runtime in ("python", "node", "go"):
        for interface in ("handler", "stdio"):
            name = f"{runtime}-{interface}"
            sandbox("new", name, "--runtime", runtime, "--interface", interface)
            (project / "functions" / name / "function.yaml").unlink()
    for function in discover(project / "functions").functions:
        if "-" in function.name:
            assert f"{function.runtime}-{function.interface}" == function.name


def test_what_is_there_is_never_overwritten(sandbox: Sandbox, project: Path) -> None:
    before = (project / "functions/hello/index.py").read_text()
    result = sandbox("new", "hello", "--runtime", "python")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert [path.name for path in (project / "functions/hello").iterdir()] == ["index.py"]
    assert (project / "functions/hello/index.py").read_text() == before

    (project / "functions/dangling").symlink_to("/nowhere")
    assert sandbox("new", "dangling", "--runtime", "python").exit_code == 2


@pytest.mark.parametrize(
    "name", ["../evil", "a/b", "-x", ".hidden", "9lives", "x" * 64, "Ünder", ""]
)
def test_a_name_that_no_function_can_have_is_refused(
    name: str, sandbox: Sandbox, project: Path
) -> None:
    before = sorted((project).rglob("*"))
    result = sandbox("new", "--runtime", "python", "--", name)
    assert result.exit_code == 2
    assert sorted((project).rglob("*")) == before


def test_the_functions_directory_is_made(sandbox: Sandbox, project: Path) -> None:
    result = sandbox("new", "first", "--runtime", "python", "--functions", "a/b", "--json")
    assert json.loads(result.stdout)["files"] == [
        "a/b/first/index.py", "a/b/first/function.yaml", "a/b/first/README.md",
    ]  # fmt: skip
    assert (project / "a/b/first/index.py").exists()


def test_a_runtime_must_be_named(sandbox: Sandbox) -> None:
    result = sandbox("new", "fresh")
    assert result.exit_code == 2
    assert "--runtime" in result.stderr
