"""`sandbox build`, over the fake engine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from click.testing import Result

    from sandbox.testing import FakeBuild, FakeEngine

    Run = Callable[..., Result]
    Play = Callable[..., FakeEngine]


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where `greet` depends on something."""
    (project / "functions/greet/requirements.txt").write_text("six\n")
    monkeypatch.setenv("SANDBOX_BUILD__NETWORK", "none")
    return project


def fails(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.write("no such package\n", "stderr")
    build.process.exit(3)


def test_all_functions_are_built_and_each_is_told(sandbox: Run, play: Play) -> None:
    play()
    ended = sandbox("build")
    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["greet", "hello"]
    assert all(re.fullmatch(r"\w+  [0-9a-f]{12}  \S+", line) for line in lines)
    (result,) = json.loads(sandbox("build", "greet", "--json").stdout)
    assert (result["function"], result["success"]) == ("greet", True)
    assert result["version"].startswith(lines[0].split()[1])


def test_a_build_that_fails_is_told_with_its_log_and_the_others_are_built(
    sandbox: Run, play: Play
) -> None:
    play(build=fails)
    ended = sandbox("build")
    assert ended.exit_code == 1
    assert ended.stdout.startswith("hello  ")
    assert "error: BUILD_FAILED: greet: " in ended.stderr
    assert "no such package" in ended.stderr
    results = json.loads(sandbox("build", "--json").stdout)
    assert [result["success"] for result in results] == [False, True]
    assert results[0]["error"]["details"]["log"] == "no such package"


def test_what_the_platform_cannot_do_has_its_exit_code(sandbox: Run, play: Play) -> None:
    play().unreachable = True
    ended = sandbox("build", "hello", "--json")
    assert ended.exit_code == 3
    (result,) = json.loads(ended.stdout)
    assert result["error"]["code"] == "ENGINE_UNAVAILABLE"
    assert sandbox("build", "nothing").exit_code == 2


def test_problems_of_other_functions_are_told(sandbox: Run, play: Play, project: Path) -> None:
    play()
    (project / "functions/hello/function.yaml").write_text("memroy: 1")
    ended = sandbox("build")
    assert "memroy" in ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["greet"]
