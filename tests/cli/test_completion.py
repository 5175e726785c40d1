"""Shells complete commands and the names of functions."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


Sandbox = "Callable[..., Result]"


def complete(line: str, *, cwd: Path) -> list[str]:
    """What bash would offer for the last word of `line`."""
    program = "from sandbox_cli.main import cli; cli(prog_name='sandbox')"
    words = line.split(" ")
    environment = os.environ | {
        "_SANDBOX_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.partition(",")[2] for line in ended.stdout.split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_the_command_back(shell: str, sandbox: Sandbox) -> None:
    result = sandbox("completion", shell)
    assert result.exit_code == 0
    assert f"_SANDBOX_COMPLETE={shell}_complete" in result.stdout


def test_commands_are_completed(project: Path) -> None:
    assert complete("sandbox im", cwd=project) == ["images"]
    assert complete("sandbox images b", cwd=project) == ["build"]
    assert "--version" in complete("sandbox --", cwd=project)


def test_names_of_functions_are_completed(project: Path) -> None:
    assert complete("sandbox invoke ", cwd=project) == ["greet", "hello"]
    assert complete("sandbox show h", cwd=project) == ["hello"]


def test_names_come_from_the_directory_that_the_line_names(project: Path) -> None:
    (project / "functions").rename(project / "other")
    assert complete("sandbox invoke ", cwd=project) == []
    assert complete("sandbox invoke --functions other g", cwd=project) == ["greet"]
