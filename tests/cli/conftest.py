"""Fixtures for the command line where it needs no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sandbox_cli.main import cli

from sandbox.testing import FakeEngine, FakeFunction, default_build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

ECHO = FakeFunction()
HELLO = "import json\nprint(json.dumps({'success': True, 'output': {}}))\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with functions `hello` and `greet`, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in ("SANDBOX_FUNCTIONS", "SANDBOX_SETTINGS", "SANDBOX_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    # What reaches the engine all the same fails, and fails quickly.
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    monkeypatch.setenv("SANDBOX_STORE", str(tmp_path / "store"))
    for name in ("hello", "greet"):
        directory = tmp_path / "functions" / name
        directory.mkdir(parents=True)
        (directory / "index.py").write_text(HELLO)
    return tmp_path


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeEngine]:
    """`play(hello=…)` puts a fake engine with these functions in the place of Docker."""

    def put(*, build: Any = default_build, default: Any = ECHO, **functions: Any) -> FakeEngine:
        engine = FakeEngine(functions, default=default, build=build)
        for name in (
            "sandbox.sandbox",
            *(f"sandbox_cli.{each}" for each in ("images", "bundles", "doctor")),
        ):
            monkeypatch.setattr(f"{name}.DockerEngine", lambda *_: engine)
        return engine

    return put


@pytest.fixture
def sandbox(project: Path) -> Callable[..., Result]:
    """`sandbox("list", "--json")` runs the command in the project."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, arguments, prog_name="sandbox", **options)

    return run
