"""How the command starts, finds its commands, and ends when something goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from sandbox_cli.main import COMMANDS, cli

if TYPE_CHECKING:
    from pathlib import Path


Sandbox = "Callable[..., Result]"


def test_help_lists_every_command(sandbox: Sandbox) -> None:
    result = sandbox("--help")
    assert result.exit_code == 0
    for name, (_, _, short_help) in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert short_help in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["invoke", "--help"]])
def test_help_imports_nothing_of_weight(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from sandbox_cli.main import cli\n"
        f"cli({arguments!r}, standalone_mode=False)\n"
        "print(*({'docker', 'pydantic', 'rich', 'tenacity', 'yaml'} & set(sys.modules)),"
        " file=sys.stderr, end='')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Usage" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_of_a_command_what_it_says_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200).rstrip(".") == COMMANDS[name][2].rstrip(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_fits_80_columns(name: str, sandbox: Sandbox) -> None:
    result = sandbox(name, "--help", terminal_width=80)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_unknown_command_is_bad_usage(sandbox: Sandbox) -> None:
    result = sandbox("invok")
    assert result.exit_code == 2
    assert "No such command" in result.stderr


def test_an_unexpected_error_is_short_and_says_how_to_see_more(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("sandbox_cli.functions.discover", fail)
    result = sandbox("list")
    assert result.exit_code == 3
    assert "INTERNAL" in result.stderr
    assert "SANDBOX_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr

    monkeypatch.setenv("SANDBOX_DEBUG", "1")
    result = sandbox("list")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_an_unexpected_error_is_a_document_with_json(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sandbox_cli.functions.discover", fail)
    result = sandbox("list", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["code"] == "INTERNAL"
    assert result.stderr == ""


def test_an_interrupt_ends_with_130(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sandbox_cli.functions.discover", interrupt)
    assert sandbox("list").exit_code == 130


def test_bad_settings_are_bad_usage_with_file_and_line(sandbox: Sandbox, project: Path) -> None:
    (project / "sandbox.yaml").write_text("concurrency: 4\nlimitz: {}\n")
    result = sandbox("invoke", "hello")
    assert result.exit_code == 2
    assert "INVALID_SETTINGS" in result.stderr
    assert "sandbox.yaml:2" in result.stderr


def test_settings_come_from_the_file_that_is_named(sandbox: Sandbox, project: Path) -> None:
    (project / "strict.yaml").write_text("ceilings:\n  memory: 32mb\n")
    assert json.loads(sandbox("show", "hello", "--json").stdout)["limits"]["memory"] == 128 * 2**20
    result = sandbox("show", "hello", "--json", "--settings", "strict.yaml")
    assert json.loads(result.stdout)["limits"]["memory"] == 32 * 2**20


def test_without_an_engine_it_says_how_to_get_one(project: Path) -> None:
    ended = run("invoke", "hello", cwd=project)
    assert ended.returncode == 3
    assert "ENGINE_UNAVAILABLE" in ended.stderr
    assert "DOCKER_HOST" in ended.stderr
    assert ended.stdout == ""


def test_without_an_engine_there_is_a_document_with_json(project: Path) -> None:
    ended = run("invoke", "hello", "--json", cwd=project)
    assert ended.returncode == 3
    document = json.loads(ended.stdout)
    assert document["success"] is False
    assert document["error"]["code"] == "ENGINE_UNAVAILABLE"
    assert ended.stderr == ""


def test_a_reader_that_goes_away_is_no_error(project: Path) -> None:
    program = [sys.executable, "-m", "sandbox_cli", "list"]
    with subprocess.Popen(
        program, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() != 0


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox_cli", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
