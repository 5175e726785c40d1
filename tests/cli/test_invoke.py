"""`sandbox invoke` and `sandbox run`, over the fake engine: what is handed in, what is printed."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import FunctionError, Sandbox, load_settings
from sandbox.engine.base import ContainerStartError
from sandbox.local.address import find_address
from sandbox.local.server import ClientLimits, LocalServer
from sandbox.testing import FakeFunction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from sandbox.testing import FakeContext, FakeEngine

    Run = Callable[..., Result]
    Play = Callable[..., FakeEngine]

FIGURES = r"succeeded in \d+ ms · cold · \S+mb · crun · version [0-9a-f]{12}\n"


def echo(ctx: FakeContext) -> Any:
    return {"auth": ctx.auth, "input": ctx.input}


def sad(ctx: FakeContext) -> FunctionError:
    return FunctionError(code="SAD", message="it is what it is", details={"field": "email"})


def talks(ctx: FakeContext) -> int:
    ctx.process.write("from stderr\n", "stderr")
    entry = {"level": "warn", "message": "from the response", "data": {"n": 1}}
    ctx.process.respond({"success": True, "output": 1, "logs": [entry]})
    ctx.process.exit()


def test_output_goes_to_stdout_and_figures_to_stderr(sandbox: Run, play: Play) -> None:
    play(hello=lambda ctx: f"Hello, {ctx.input['name']}!")
    ended = sandbox("invoke", "hello", "-d", '{"name": "Wörld"}')
    assert (ended.exit_code, ended.stdout) == (0, '"Hello, Wörld!"\n')
    assert re.fullmatch(FIGURES, ended.stderr)


def test_with_json_stdout_is_the_response_and_nothing_else(sandbox: Run, play: Play) -> None:
    play(hello=talks)
    ended = sandbox("invoke", "hello", "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert document["output"] == 1
    assert [entry["message"] for entry in document["logs"]] == ["from stderr", "from the response"]
    assert ended.stdout.count("\n") == 1


def test_a_function_that_fails_ends_with_1(sandbox: Run, play: Play) -> None:
    play(hello=sad)
    ended = sandbox("invoke", "hello")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: SAD: it is what it is\n  field: email\n")
    assert "\nfailed in " in ended.stderr
    ended = sandbox("invoke", "hello", "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["error"] == sad(None).to_dict()  # type: ignore[arg-type]


def test_input_comes_from_stdin_or_a_file(sandbox: Run, play: Play, project: Path) -> None:
    play(hello=echo)
    (project / "input.json").write_text('{"from": "a file"}')
    for data, options in (("-", {"input": '{"from": "stdin"}'}), ("@input.json", {})):
        ended = sandbox("invoke", "hello", "-d", data, "--json", **options)
        expected = "stdin" if options else "a file"
        assert json.loads(ended.stdout)["output"]["input"] == {"from": expected}


def test_files_and_the_caller_are_handed_on(sandbox: Run, play: Play, project: Path) -> None:
    play(hello=echo)
    (project / "notes.txt").write_text("first\nsecond\n")
    auth = '{"id": "u1", "role": "admin"}'
    ended = sandbox("invoke", "hello", "--auth", auth, "--file", "document=notes.txt", "--json")
    output = json.loads(ended.stdout)["output"]
    (file,) = output["input"]["_files"]
    assert (file["name"], file["filename"], file["size"]) == ("document", "notes.txt", 13)
    assert file["content_type"] == "text/plain"
    assert (output["auth"]["id"], output["auth"]["role"]) == ("u1", "admin")


@pytest.mark.parametrize("auth", ["{", "[]", '{"role": "admin"}', '{"id": 1}'])
def test_a_caller_that_is_none_is_bad_usage(sandbox: Run, play: Play, auth: str) -> None:
    engine = play(hello=echo)
    ended = sandbox("invoke", "hello", "--auth", auth)
    assert ended.exit_code == 2
    assert "auth" in ended.stderr
    assert engine.created == 0


def test_all_logs_are_shown_the_response_s_own_too(sandbox: Run, play: Play) -> None:
    play(hello=talks)
    ended = sandbox("invoke", "hello")
    assert ended.stdout == "1\n"
    assert ended.stderr.splitlines()[:2] == [
        "  info  from stderr",
        '  warn  from the response  {"n": 1}',
    ]


def test_a_time_limit_is_explained(sandbox: Run, play: Play) -> None:
    play(hello=lambda ctx: ctx.process.stall())
    ended = sandbox("invoke", "hello", "--timeout", "100ms")
    assert ended.exit_code == 1
    assert "error: TIMEOUT:" in ended.stderr
    assert "the limit is 100ms;" in ended.stderr


def test_what_the_platform_cannot_do_ends_with_3(sandbox: Run, play: Play) -> None:
    play(hello=FakeFunction(failures={"start": ContainerStartError("no file")})).unreachable = True
    ended = sandbox("invoke", "hello")
    assert ended.exit_code == 3
    assert ended.stderr.startswith("error: ENGINE_UNAVAILABLE: ")


def test_one_file_runs_without_a_project(sandbox: Run, play: Play, project: Path) -> None:
    play(default=lambda ctx: {"twice": ctx.input["n"] * 2})
    (project / "my script.py").write_text("def handler(ctx): ...\n")
    ended = sandbox("run", "my script.py", "-d", '{"n": 21}')
    assert (ended.exit_code, json.loads(ended.stdout)) == (0, {"twice": 42})
    ended = sandbox("run", "functions/hello", "-d", '{"n": 1}')
    assert json.loads(ended.stdout) == {"twice": 2}


def test_a_file_that_nothing_runs_is_bad_usage(sandbox: Run, project: Path) -> None:
    (project / "notes.txt").write_text("no program")
    ended = sandbox("run", "notes.txt")
    assert ended.exit_code == 2
    assert "no runtime runs 'notes.txt'" in ended.stderr


class Serving:
    """A process that serves the project's functions, as `sandbox watch` does."""

    def __init__(self, project: Path, engine: FakeEngine) -> None:
        self.address = find_address(project / "functions", None, os.environ)
        self.engine = engine
        self.current = True

    def __enter__(self) -> Serving:
        self._sandbox = Sandbox(
            "functions", settings=load_settings(None, os.environ), engine=self.engine, warm=False
        )
        self._server = LocalServer(
            self.address,
            self._sandbox,
            limits=ClientLimits(request=1 << 20),
            is_current=lambda: self.current,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._sandbox.close()


def test_it_goes_through_the_process_that_serves_and_prints_the_same(
    sandbox: Run, play: Play, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(project))
    engine = play(hello=talks)
    other = play(hello=talks)
    with Serving(project, engine) as serving:
        served = sandbox("invoke", "hello")
        assert (served.exit_code, served.stdout) == (0, "1\n")
        assert served.stderr.splitlines()[:2] == [
            "  info  from stderr",
            '  warn  from the response  {"n": 1}',
        ]
        assert json.loads(sandbox("invoke", "hello", "--json").stdout)["output"] == 1
        assert (engine.created, other.created) == (2, 0)
        for options in (["-d", "[]"], ["--auth", "{}"]):
            refused = sandbox("invoke", "hello", *options)
            assert refused.exit_code == 2, refused.stderr
        # --local forbids it, and a process that is out of date turns it away.
        sandbox("invoke", "hello", "--local")
        serving.current = False
        sandbox("invoke", "hello")
        assert (engine.created, other.created) == (2, 2)


def test_ctrl_c_ends_with_130_and_leaves_no_container(sandbox: Run, play: Play) -> None:
    def interrupted(ctx: FakeContext) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ctx.process.stall()

    engine = play(hello=interrupted)
    assert sandbox("invoke", "hello").exit_code == 130
    assert engine.containers({}) == []
