"""`list`, `show` and `validate`: what they print, and how they end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


Sandbox = "Callable[..., Result]"


def break_one(project: Path) -> None:
    (project / "functions/greet/function.yaml").write_text("runtime: python\nmemroy: 64mb\n")


def test_list_is_a_plain_table_when_piped(sandbox: Sandbox, project: Path) -> None:
    (project / "functions/hello/function.yaml").write_text("description: Says hello\n")
    result = sandbox("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "NAME   RUNTIME  INTERFACE  DESCRIPTION",
        "greet  python   stdio",
        "hello  python   stdio      Says hello",
    ]
    assert result.stderr == ""


def test_list_shows_problems_beside_the_functions_that_load(
    sandbox: Sandbox, project: Path
) -> None:
    break_one(project)
    result = sandbox("list")
    assert result.exit_code == 0
    assert "hello" in result.stdout
    assert "greet" not in result.stdout
    assert "functions/greet/function.yaml:2:1: error:" in result.stderr
    assert "'memory'" in result.stderr


def test_list_fails_where_nothing_loads(sandbox: Sandbox) -> None:
    result = sandbox("list", "--functions", "elsewhere")
    assert result.exit_code == 2
    assert "elsewhere" in result.stderr


def test_list_of_an_empty_directory_says_so(sandbox: Sandbox, project: Path) -> None:
    (project / "empty").mkdir()
    result = sandbox("list", "--functions", "empty")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no functions in empty" in result.stderr


def test_list_with_json_has_functions_and_problems(sandbox: Sandbox, project: Path) -> None:
    break_one(project)
    document = json.loads(sandbox("list", "--json").stdout)
    assert [function["name"] for function in document["functions"]] == ["hello"]
    assert document["problems"][0]["line"] == 2


def test_a_description_of_many_lines_or_escapes_stays_one_line(
    sandbox: Sandbox, project: Path
) -> None:
    (project / "functions/hello/function.yaml").write_text(
        'description: "a\\nb \\u001b[31m \\u009b"\n'
    )
    lines = sandbox("list").stdout.splitlines()
    assert lines[2] == r"hello  python   stdio      a b \u001b[31m \u009b"


def test_show_has_the_limits_in_force_and_what_was_clamped(sandbox: Sandbox, project: Path) -> None:
    (project / "functions/hello/function.yaml").write_text(
        "description: Says hello\nmemory: 4gb\ntimeout: 5s\n"
        "env:\n  KEY: ${TOKEN}\n"
        "routes:\n  - path: /hello\n    methods: [GET, POST]\n"
    )
    (project / "sandbox.yaml").write_text("ceilings:\n  memory: 256mb\n")
    result = sandbox("show", "hello")
    assert result.exit_code == 0
    fields = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert fields["memory"] == "256mb"
    assert fields["timeout"] == "5s"
    assert fields["runtime"] == "python"
    assert fields["env"] == "KEY=${TOKEN}"
    assert fields["routes"] == "GET POST /hello"
    assert len(fields["version"]) == 12
    assert "function.yaml:2" in result.stderr
    assert "ceiling" in result.stderr


def test_show_of_what_may_not_run_says_why(sandbox: Sandbox, project: Path) -> None:
    (project / "sandbox.yaml").write_text("runtimes: [node]\n")
    result = sandbox("show", "hello")
    assert result.exit_code == 0
    assert "cannot be invoked here" in result.stderr


def test_validate_shows_the_policy_of_each_function(sandbox: Sandbox) -> None:
    result = sandbox("validate")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["NAME", "TIMEOUT", "MEMORY", "CPU", "PIDS", "/TMP", "RUNTIME_CLASS", "NETWORK"],
        ["greet", "30s", "128mb", "1", "128", "64mb", "auto", "none"],
        ["hello", "30s", "128mb", "1", "128", "64mb", "auto", "none"],
    ]
    assert "no problems" in result.stderr


def test_a_destination_that_is_not_allowed_is_refused_with_its_line_and_the_setting(
    sandbox: Sandbox, project: Path
) -> None:
    (project / "functions/hello/function.yaml").write_text(
        "network:\n  - api.example.org:443\n  - db.example.org:5432\n"
    )
    (project / "sandbox.yaml").write_text("network:\n  allow: ['*.example.org:443']\n")
    result = sandbox("validate")
    assert result.exit_code == 2
    assert "functions/hello/function.yaml:3: error: network: db.example.org:5432" in result.stderr
    assert "network.allow" in result.stderr
    assert "refused" in result.stdout


def test_what_is_allowed_is_shown(sandbox: Sandbox, project: Path) -> None:
    (project / "functions/hello/function.yaml").write_text("network: [API.example.org.:443]\n")
    (project / "sandbox.yaml").write_text(
        "network:\n  allow: ['*.example.org:443']\nalyx_url: http://10.0.0.7:8090\n"
    )
    document = json.loads(sandbox("validate", "--json").stdout)
    assert document["valid"] is True
    assert {item["name"]: item["network"]["destinations"] for item in document["functions"]} == {
        "greet": [], "hello": ["api.example.org:443"]
    }  # fmt: skip
    shown = json.loads(sandbox("show", "hello", "--json").stdout)
    assert shown["network"] == {
        "destinations": ["api.example.org:443"], "alyx_url": "http://alyx.internal:8090"
    }  # fmt: skip
    assert "api.example.org:443" in sandbox("show", "hello").stdout
    assert "alyx.internal:8090 (alyx_url)" in sandbox("show", "greet").stdout


def test_validate_fails_like_a_compiler(sandbox: Sandbox, project: Path) -> None:
    break_one(project)
    result = sandbox("validate", "functions")
    assert result.exit_code == 2
    assert result.stderr.startswith("functions/greet/function.yaml:2:1: error: ")


def test_validate_says_what_the_settings_clamp_and_refuse(sandbox: Sandbox, project: Path) -> None:
    (project / "functions/hello/function.yaml").write_text("runtime: python\nmemory: 900mb\n")
    (project / "sandbox.yaml").write_text("ceilings:\n  memory: 64mb\n")
    result = sandbox("validate")
    assert result.exit_code == 0
    assert "functions/hello/function.yaml:2:9: warning: memory:" in result.stderr

    (project / "sandbox.yaml").write_text("runtimes: [node]\n")
    result = sandbox("validate", "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["valid"] is False
    assert {problem["function"] for problem in document["problems"]} == {"greet", "hello"}


def test_validate_finds_files_that_cannot_be_deployed(sandbox: Sandbox, project: Path) -> None:
    (project / "functions/hello/outside").symlink_to("/etc/hostname")
    result = sandbox("validate")
    assert result.exit_code == 2
    assert "functions/hello: error: outside: " in result.stderr


def test_validate_finds_a_secret_that_is_not_given(sandbox: Sandbox, project: Path) -> None:
    (project / "functions/hello/function.yaml").write_text("env:\n  KEY: ${TOKEN}\n")
    result = sandbox("validate")
    assert result.exit_code == 2
    assert "functions/hello/function.yaml:2: error: " in result.stderr
    assert "TOKEN" in result.stderr

    (project / "secrets.yaml").write_text("TOKEN: hush\n")
    (project / "sandbox.yaml").write_text("secrets_file: secrets.yaml\n")
    result = sandbox("validate")
    assert result.exit_code == 0
    assert "hush" not in result.stdout + result.stderr
