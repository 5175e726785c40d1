"""The images as they were built: what is in them, and what init and the bootstraps promise."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.images import catalog, image_builder
from sandbox.images import image_recipes as recipes
from sandbox.images.image_recipes import IMAGE_NAMES, reference
from sandbox.runtimes import RUNTIMES, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.engine.docker.engine import DockerEngine

# Megabytes; what a change may cost before somebody has to say so here.
LARGEST = {
    "base": 10,
    "python": 60,
    "node": 140,
    "deno": 115,
    "bun": 125,
    "go": 220,
    "binary": 15,
    "python-build": 70,
    "node-build": 155,
}
VERSION_COMMANDS = {
    "python": ("python3", "--version"),
    "node": ("node", "--version"),
    "deno": ("deno", "--version"),
    "bun": ("bun", "--version"),
    "go": ("go", "version"),
}
NOT_IN_AN_IMAGE = {
    "apk", "apt", "apt-cache", "apt-get", "corepack", "dpkg", "dpkg-deb", "gpasswd", "mount",
    "newgrp", "npm", "npx", "passwd", "pip", "pip3", "pnpm", "rpm", "su", "sudo", "umount", "yarn",
}  # fmt: skip
INSTALLERS = {"python-build": {"pip", "pip3"}, "node-build": {"npm", "npx"}}
HARDENED = (
    "--network=none", "--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)  # fmt: skip
INIT = "/opt/alyx/init"
NONCE = "c0ffee"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a container wrote, and how init said that it ended."""

    code: int
    stdout: str
    stderr: str
    report: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def run(
    image: str,
    *command: str,
    stdin: str = "",
    options: tuple[str, ...] = (),
    user: int = 65534,
) -> Outcome:
    """Run `command` under init in a container like a function's."""
    finished = subprocess.run(
        ["docker", "run", "--rm", "--interactive", f"--user={user}", *HARDENED, *options,
         "--env", f"SANDBOX_NONCE={NONCE}", reference(image), INIT, *command],
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # Init's lines come between the command's own; the last one tells how it ended.
    said = re.compile(f"\x1e{NONCE}({{.*}})\n")
    reports = said.findall(finished.stderr)
    assert reports, finished.stderr
    return Outcome(
        code=finished.returncode,
        stdout=finished.stdout,
        stderr=said.sub("", finished.stderr),
        report=json.loads(reports[-1]),
    )


@pytest.fixture(params=["runc", "crun", "gvisor"])
def oci_runtime(request: pytest.FixtureRequest, engine: DockerEngine) -> str:
    """Each OCI runtime that the engine has, by the engine's name for it."""
    if request.param not in engine.info().runtime_classes:
        pytest.skip(f"the engine has no {request.param}")
    return {"gvisor": "runsc"}.get(request.param, request.param)


def shared(directory: Path) -> tuple[str, ...]:
    """Options that show `directory` to a container whose user is the one running the tests."""
    return (f"--volume={directory}:/function:ro",)


# ---------------------------------------------------------------- what is in an image


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_image_is_current_labelled_and_small(engine: DockerEngine, name: str) -> None:
    image = catalog.require(engine, name)
    base = image.labels[recipes.LABEL_BASE]
    assert recipes.labels(name, recipes.folder(), base=base).items() <= image.labels.items()
    assert image.size < LARGEST[name] * 1e6


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_files_of_an_image_are_root_s_and_give_nobody_rights(name: str) -> None:
    created = subprocess.run(
        ["docker", "create", reference(name)], check=True, capture_output=True, text=True
    )
    container = created.stdout.strip()
    try:
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            files = list(archive)
    finally:
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)
    assert len(files) > 100
    paths = {PurePosixPath("/", file.name) for file in files}
    assert {PurePosixPath(INIT), PurePosixPath("/usr/bin/busybox")} <= paths
    assert [file.name for file in files if file.mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert {(file.uid, file.gid) for file in files} == {(0, 0)}
    writable = {file.name for file in files if file.mode & stat.S_IWOTH and not file.issym()}
    assert writable <= {"tmp", "var/tmp", "var/lock", "run/lock"}
    programs = {path.name for path in paths if path.parent.name in ("bin", "sbin")}
    assert "sh" in programs
    assert programs & NOT_IN_AN_IMAGE == INSTALLERS.get(name, set())
    assert not [path for path in paths if "ca-bundle" in path.name or "alyx-build" in path.name]


@pytest.mark.parametrize("name", VERSION_COMMANDS)
def test_label_tells_the_version_that_runs(engine: DockerEngine, name: str) -> None:
    version = catalog.require(engine, name).labels[recipes.LABEL_VERSION]
    assert version in run(name, *VERSION_COMMANDS[name]).stdout


def test_a_second_build_does_nothing(engine: DockerEngine) -> None:
    events: list[image_builder.Progress] = []
    started = time.monotonic()
    image_builder.build(engine, on_progress=events.append)
    assert {(event.image, event.event) for event in events} == {
        (name, "current") for name in IMAGE_NAMES
    }
    assert time.monotonic() - started < 2


def test_every_small_tool_of_the_shell_is_there() -> None:
    script = """
        for path in /usr/bin/*; do
            [ "$(readlink $path)" = busybox ] || continue
            echo tool
            $path --help 2>&1 </dev/null | grep -q 'applet not found' && echo "missing $path"
        done
    """
    lines = run("base", "sh", "-c", script).stdout.splitlines()
    assert len(lines) > 50
    assert set(lines) == {"tool"}


def test_certificates_time_zones_and_names_are_there() -> None:
    script = (
        "import getpass, pathlib, socket, ssl, zoneinfo\n"
        "print(len(ssl.create_default_context().get_ca_certs()) > 100)\n"
        "print(zoneinfo.ZoneInfo('Europe/Berlin').key)\n"
        "print(socket.getservbyname('https'), pathlib.Path.home(), getpass.getuser())\n"
    )
    outcome = run("python", "python3", "-c", script)
    assert outcome.stdout.split() == ["True", "Europe/Berlin", "443", "/tmp", "nobody"]


# ---------------------------------------------------------------- init


def test_init_passes_the_exit_code_and_the_streams(oci_runtime: str) -> None:
    script = "cat; echo oops >&2; exit 7"
    outcome = run("base", "sh", "-c", script, stdin="hello", options=(f"--runtime={oci_runtime}",))
    assert (outcome.code, outcome.stdout, outcome.stderr) == (7, "hello", "oops\n")
    assert (outcome.report["exit_code"], outcome.report["signal"]) == (7, None)
    assert outcome.report["cpu_ms"] >= 0
    if oci_runtime == "runsc":  # it has no cgroup inside
        assert outcome.report["peak_memory_bytes"] is None
    else:
        assert outcome.report["peak_memory_bytes"] > 100_000
    assert outcome.report["exec_errno"] is None


def test_init_reports_the_signal_that_ended_the_command(oci_runtime: str) -> None:
    outcome = run("base", "sh", "-c", "kill -SEGV $$", options=(f"--runtime={oci_runtime}",))
    assert outcome.code == 128 + 11
    assert (outcome.report["exit_code"], outcome.report["signal"]) == (None, 11)


def test_init_kills_the_orphan_that_holds_the_pipes(oci_runtime: str) -> None:
    started = time.monotonic()
    script = "(trap '' TERM HUP; sleep 50) & (sleep 50 &) ; echo done"
    outcome = run("base", "sh", "-c", script, options=(f"--runtime={oci_runtime}",))
    assert (outcome.code, outcome.stdout) == (0, "done\n")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("command", "number"), [("/nonexistent", 2), ("/etc/passwd", 13), ("/tmp", 13)]
)
def test_init_reports_why_the_command_cannot_be_run(command: str, number: int) -> None:
    outcome = run("base", command)
    assert outcome.code == 127
    assert outcome.report["exec_errno"] == number


def test_a_forged_report_is_not_the_last_line() -> None:
    forged = json.dumps({"exit_code": 0, "signal": None})
    script = (
        f"(while :; do printf '\\036%s\\n' '{forged}' >&2; sleep 0.01; done) & sleep 0.1; exit 3"
    )
    outcome = run("base", "sh", "-c", script)
    assert forged in outcome.stderr
    assert outcome.report["exit_code"] == 3


def test_init_forwards_a_request_to_stop() -> None:
    name = f"alyx-sandbox-test-{os.getpid()}"
    script = "trap 'echo stopping; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        ["docker", "run", "--rm", f"--name={name}", *HARDENED, reference("base"), INIT,
         "sh", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        subprocess.run(["docker", "kill", "--signal=TERM", name], check=True, capture_output=True)
        stdout, _ = process.communicate(timeout=20)
        assert (process.returncode, stdout) == (5, "stopping\n")
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
        process.communicate()


def test_init_cannot_be_looked_into_by_the_command() -> None:
    script = "grep -c PATH /proc/self/environ; cat /proc/1/environ; cat /proc/1/maps"
    outcome = run("base", "sh", "-c", script)
    assert outcome.stdout == "1\n"  # the control: its own environment it can read
    assert outcome.stderr.count("Permission denied") == 2


def test_the_kernel_is_told_to_kill_the_command_before_init() -> None:
    assert run("base", "cat", "/proc/self/oom_score_adj").stdout == "500\n"


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_init_reports_kills_by_the_memory_limit(engine: DockerEngine, runtime: str) -> None:
    if runtime not in engine.info().runtime_classes:
        pytest.skip(f"the engine has no {runtime}")
    options = (f"--runtime={runtime}", "--memory=48m", "--memory-swap=48m")
    outcome = run("python", "python3", "-c", "x = bytearray(1 << 30)", options=options)
    assert outcome.report["signal"] == 9
    assert outcome.report["oom_kills"] >= 1
    assert outcome.report["peak_memory_bytes"] > 40 << 20


def test_init_reports_processes_that_were_refused() -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done"
    outcome = run("base", "sh", "-c", script, options=("--pids-limit=4",))
    assert outcome.report["pids_denied"] >= 1
    assert outcome.report["oom_kills"] == 0


def test_init_runs_only_as_the_first_process() -> None:
    outcome = run("base", "sh", "-c", f"{INIT} true; echo $?")
    assert outcome.stdout == "2\n"
    assert "first process" in outcome.stderr


def test_init_lets_go_of_stdout_when_the_command_does(tmp_path: Path) -> None:
    """Seen from outside, over pipes; for that, init runs in a process namespace of the host's."""
    namespace = ["unshare", "--user", "--map-root-user", "--pid"]
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not create process namespaces")
    created = subprocess.run(
        ["docker", "create", reference("base")], check=True, capture_output=True, text=True
    )
    container = created.stdout.strip()
    init = str(tmp_path / "init")
    subprocess.run(["docker", "cp", f"{container}:{INIT}", init], check=True, capture_output=True)
    subprocess.run(["docker", "rm", container], check=True, capture_output=True)
    # The first child of the outer shell is the namespace's first process. That shell keeps none
    # of the pipes open itself.
    outer = 'exec 3<&0; "$@" <&3 3<&- & exec 3<&- <&- >&-; wait $!'
    command = "echo out; exec 1>&-; read line; exit 4"
    with subprocess.Popen(
        [*namespace, "sh", "-c", outer, "outer", init, "sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(10, process.stdin.close)
        watchdog.start()
        assert process.stdout.read() == b"out\n"  # to its end, while the command still runs
        assert watchdog.is_alive()
        watchdog.cancel()
        assert process.poll() is None
        _, report = process.communicate(b"\n", timeout=20)
        assert process.returncode == 4
        assert json.loads(report.rpartition(b"\x1e")[2])["exit_code"] == 4


# ---------------------------------------------------------------- handlers

PYTHON_HANDLER = """
import os, subprocess

class Refusal(Exception):
    def __init__(self):
        super().__init__("Email is required")
        self.code, self.field = "VALIDATION_ERROR", "email"

async def handler(ctx):
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["sh", "-c", "echo from a child"])
    ctx.log.warn("logged", {"a": 1})
    mode = ctx.input["mode"]
    if mode == "fail": raise ValueError("plain failure")
    if mode == "refuse": raise Refusal
    if mode == "not-json": return {"x": object()}
    return {"hello": ctx["input"]["name"], "auth": ctx.auth["id"], "env": ctx.env["KEY"],
            "request_id": ctx.request_id, "function": ctx.function, "alyx_url": ctx.alyx_url,
            "internal_token": ctx.internal_token}
"""
JAVASCRIPT_HANDLER = """
import { spawnSync } from "node:child_process";
import { writeSync } from "node:fs";
import process from "node:process";

export default async function handler(ctx) {
  console.log("printed");
  process.stdout.write("by the stream\\n");
  writeSync(1, "written\\n");
  spawnSync("sh", ["-c", "echo from a child"], { stdio: "inherit" });
  ctx.log.warn("logged", { a: 1 });
  const { mode, name } = ctx.input;
  if (mode === "fail") throw new Error("plain failure");
  if (mode === "refuse")
    throw Object.assign(new Error("Email is required"), {
      code: "VALIDATION_ERROR",
      field: "email",
    });
  if (mode === "not-json") return { x: 1n };
  const { input, log, ...context } = ctx;
  return { ...context, hello: name, auth: ctx.auth.id, env: ctx.env.KEY };
}
"""
GO_HANDLER = """
package main

import (
	"alyx"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

func Handler(ctx *alyx.Context) (any, error) {
	fmt.Println("printed")
	os.Stdout.WriteString("written\\n")
	child := exec.Command("sh", "-c", "echo from a child")
	child.Stdout = os.Stdout
	child.Run()
	ctx.Log.Warn("logged", map[string]any{"a": 1})
	switch ctx.Input["mode"] {
	case "fail":
		return nil, errors.New("plain failure")
	case "refuse":
		return nil, &alyx.Error{
			Code: "VALIDATION_ERROR", Message: "Email is required",
			Details: map[string]any{"field": "email"},
		}
	case "not-json":
		return func() {}, nil
	}
	return map[string]any{
		"hello": ctx.Input["name"], "auth": ctx.Auth.ID, "env": ctx.Env["KEY"],
		"request_id": ctx.RequestID, "function": ctx.Function, "alyx_url": ctx.AlyxURL,
		"internal_token": ctx.InternalToken,
	}, nil
}
"""


def request(request_id: str, **values: object) -> str:
    """One request, as it goes to a handler: a line of JSON."""
    context = {
        "auth": {"id": "u_1"},
        "env": {"KEY": "value"},
        "alyx_url": "http://alyx",
        "internal_token": "token",
    }
    document = {"request_id": request_id, "function": "f", "input": values, "context": context}
    return json.dumps(document) + "\n"


def compile_go(source: Path, output: Path, entry: str, interface: str) -> Outcome:
    """Compile the function in `source` to `output`/function, in the `go` image."""
    output.mkdir()
    return run(
        "go", "/opt/alyx/compile", entry, interface, user=os.getuid(),
        options=(f"--volume={source}:/src:ro", f"--volume={output}:/out"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def go_handler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("go")
    source = directory / "source"
    source.mkdir()
    (source / "index.go").write_text(GO_HANDLER)
    outcome = compile_go(source, directory / "out", "index.go", "handler")
    assert outcome.code == 0, outcome.stderr
    return directory / "out"


@pytest.fixture
def serve(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Outcome]:
    """`serve("node", requests, source, name)` runs a handler until it has no more requests."""

    def run_handler(
        runtime: str,
        requests: str,
        *,
        source: str | None = None,
        name: str | None = None,
        options: tuple[str, ...] = (),
    ) -> Outcome:
        if runtime == "go":
            assert source is None
            directory, name = request.getfixturevalue("go_handler"), "function"
        else:
            default = PYTHON_HANDLER if runtime == "python" else JAVASCRIPT_HANDLER
            name = name or ("index.py" if runtime == "python" else "index.mjs")
            directory = tmp_path
            (tmp_path / name).write_text(source or default)
        info = RUNTIMES[Runtime(runtime)]
        env = tuple(f"--env={key}={value}" for key, value in info.env.items())
        return run(
            info.image, "--handler", *info.command(name, "handler"), stdin=requests,
            options=(*shared(directory), *env, *options), user=os.getuid(),
        )  # fmt: skip

    return run_handler


RUNTIMES_WITH_HANDLERS = ["python", "node", "deno", "bun", "go"]


@pytest.mark.parametrize("runtime", RUNTIMES_WITH_HANDLERS)
def test_handler_answers_each_request_and_prints_only_into_the_logs(
    serve: Callable[..., Outcome], runtime: str
) -> None:
    requests = "".join(
        request(f"r_{mode}", mode=mode, name="Wörld")
        for mode in ("work", "fail", "refuse", "not-json", "again")
    )
    outcome = serve(runtime, requests)
    assert outcome.code == 0, outcome.stderr
    ready, *messages = outcome.messages
    assert ready == {"type": "ready"}
    logs = [message for message in messages if message["type"] == "log"]
    responses = {message["request_id"]: message for message in messages if message not in logs}
    assert [message["type"] for message in messages] == ["log", "response"] * 5
    assert list(responses) == ["r_work", "r_fail", "r_refuse", "r_not-json", "r_again"]
    for log in logs:
        assert (log["level"], log["message"], log["data"]) == ("warn", "logged", {"a": 1})
        assert log["timestamp"].endswith("Z")
    for response in responses.values():
        assert response["usage"]["cpu_ms"] >= 0
        assert response["usage"]["peak_memory_bytes"] > 1 << 20
    assert responses["r_work"]["success"] is True
    assert responses["r_work"]["output"] == {
        "hello": "Wörld",
        "auth": "u_1",
        "env": "value",
        "request_id": "r_work",
        "function": "f",
        "alyx_url": "http://alyx",
        "internal_token": "token",
    }
    assert responses["r_again"]["success"] is True
    failure = responses["r_fail"]["error"]
    assert (failure["code"], failure["message"]) == ("FUNCTION_ERROR", "plain failure")
    assert responses["r_refuse"]["error"] == {
        "code": "VALIDATION_ERROR",
        "message": "Email is required",
        "details": {"field": "email"},
    }
    assert responses["r_not-json"]["error"]["code"] == "FUNCTION_ERROR"
    assert "not JSON" in responses["r_not-json"]["error"]["message"]
    for printed in ("printed\n", "written\n", "from a child\n", "plain failure"):
        assert printed in outcome.stderr


@pytest.mark.parametrize("runtime", RUNTIMES_WITH_HANDLERS)
def test_handler_works_under_every_oci_runtime(
    serve: Callable[..., Outcome], runtime: str, oci_runtime: str
) -> None:
    outcome = serve(
        runtime, request("r", mode="work", name="x"), options=(f"--runtime={oci_runtime}",)
    )
    assert [message["type"] for message in outcome.messages] == ["ready", "log", "response"]
    assert outcome.messages[-1]["success"] is True


@pytest.mark.parametrize(
    ("runtime", "name", "source"),
    [
        ("python", "f.py", "def handler(ctx): return ctx.input['x']"),
        ("python", "json.py", "import f2\ndef handler(input, ctx): return f2.same(input['x'])"),
        ("python", "f.py", "def handler(ctx, extra=None): return ctx.input['x']"),
        (
            "python",
            "f.py",
            "class H:\n async def __call__(self, input, ctx): return input['x']\nhandler = H()",
        ),
        ("node", "f.cjs", "module.exports = (ctx) => ctx.input.x;"),
        ("node", "f.cjs", "exports.handler = async (input, ctx) => input.x;"),
        (
            "node",
            "f.mjs",
            "export default { y: 1, handler(input, ctx) { return input.x * this.y; } };",
        ),
        ("node", "f.ts", "export default (input: { x: number }, ctx: unknown): number => input.x;"),
        ("node", "f.mjs", "export const handler = (ctx) => ctx.input.x;"),
        ("deno", "f.ts", "export default (input: { x: number }, ctx: unknown): number => input.x;"),
        ("deno", "f.cjs", "module.exports = (ctx) => ctx.input.x;"),
        ("bun", "f.ts", "export default { handler: (ctx: any) => ctx.input.x };"),
        ("bun", "f.cjs", "exports.handler = (ctx) => ctx.input.x;"),
    ],
)
def test_every_form_of_handler_is_found(
    serve: Callable[..., Outcome], tmp_path: Path, runtime: str, name: str, source: str
) -> None:
    (tmp_path / "f2.py").write_text("def same(x): return x")
    outcome = serve(runtime, request("r", x=42), source=source, name=name)
    assert outcome.messages[-1].get("output") == 42, outcome.stderr


@pytest.mark.parametrize("runtime", ["python", "node", "deno", "bun"])
@pytest.mark.parametrize("broken", ["import nothing_there from './nowhere.mjs'", "x = 1"])
def test_a_module_without_a_handler_is_an_init_error(
    serve: Callable[..., Outcome], runtime: str, broken: str
) -> None:
    outcome = serve(runtime, request("r"), source=broken)
    assert [message["type"] for message in outcome.messages] == ["init_error"]
    assert outcome.messages[0]["error"]["message"]
    assert outcome.code == 1
    assert outcome.stderr


@pytest.mark.parametrize("runtime", ["node", "deno", "bun"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Promise.reject(new Error('adrift'))", "adrift"),
        ("setTimeout(() => { throw new Error('late') }, 5)", "late"),
        ("0", "never settled"),
    ],
)
def test_an_error_outside_the_handler_s_awaits_is_its_failure(
    serve: Callable[..., Outcome], runtime: str, source: str, message: str
) -> None:
    source = f"export default async () => {{ {source}; await new Promise(() => {{}}); }}"
    (_, response) = serve(runtime, request("r"), source=source).messages
    assert response["success"] is False
    assert response["error"]["code"] == "FUNCTION_ERROR"
    assert message in response["error"]["message"]


@pytest.mark.parametrize("runtime", ["python", "node", "deno", "bun"])
def test_a_flood_of_prints_arrives_whole_before_the_end(
    serve: Callable[..., Outcome], runtime: str
) -> None:
    source = (
        "def handler(ctx):\n for _ in range(3000): print('x' * 99)\n return 'y' * 1_000_000"
        if runtime == "python"
        else "export default () => { for (let i = 0; i < 3000; i++) console.log('x'.repeat(99));"
        " return 'y'.repeat(1_000_000); }"
    )
    outcome = serve(runtime, request("r"), source=source)
    assert outcome.stderr == ("x" * 99 + "\n") * 3000
    assert len(outcome.messages[-1]["output"]) == 1_000_000


# ---------------------------------------------------------------- compiling Go

GO_STDIO = 'package main\n\nimport "os"\n\nfunc main() { os.Stdout.WriteString("ran") }\n'
GO_LIBRARY = """
package greet

import (
	"alyx"
	"example.com/greet/inner"
	"example.com/words"
	"go/token"
)

func Handler(ctx *alyx.Context) (any, error) {
	return words.Hello + inner.World + token.ADD.String(), nil
}
"""
GO_MOD = "module example.com/greet\n\ngo 1.24\n\nrequire example.com/words v1.0.0\n"


def test_a_go_program_without_a_module_file_is_compiled(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.go").write_text(GO_STDIO)
    started = time.monotonic()
    outcome = compile_go(source, tmp_path / "out", "main.go", "stdio")
    assert outcome.code == 0, outcome.stderr
    assert time.monotonic() - started < 15
    program = tmp_path / "out" / "function"
    assert program.stat().st_size < 3_000_000
    assert run("binary", "/function/function", options=shared(tmp_path / "out")).stdout == "ran"


def test_a_go_handler_may_have_packages_and_vendored_modules(tmp_path: Path) -> None:
    """Its package is not `main`, and it imports what the cache of the image does not have."""
    source = tmp_path / "source"
    for path, text in {
        "go.mod": GO_MOD,
        "cmd.go": GO_LIBRARY,
        "inner/inner.go": 'package inner\n\nconst World = "world"\n',
        "vendor/modules.txt": "# example.com/words v1.0.0\n## explicit\nexample.com/words\n",
        "vendor/example.com/words/words.go": 'package words\n\nconst Hello = "hello "\n',
    }.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    outcome = compile_go(source, tmp_path / "out", "cmd.go", "handler")
    assert outcome.code == 0, outcome.stderr
    served = run(
        "binary", "--handler", "/function/function",
        stdin=request("r"), options=shared(tmp_path / "out"), user=os.getuid(),
    )  # fmt: skip
    assert served.messages[-1]["output"] == "hello world+"


def test_a_go_handler_with_a_main_and_a_replaced_alyx_is_compiled(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "cmd").mkdir(parents=True)
    main = "\nfunc main() { alyx.Serve(Handler) }\n"
    (source / "cmd" / "index.go").write_text(GO_HANDLER + main)
    (source / "go.mod").write_text(
        "module example.com/f\n\ngo 1.24\n\nrequire alyx v0.0.0\n\nreplace alyx => ../elsewhere\n"
    )
    outcome = compile_go(source, tmp_path / "out", "cmd/index.go", "handler")
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "out" / "function").is_file()


@pytest.mark.parametrize(
    ("text", "interface", "said"),
    [
        (
            "package main\n\nfunc main() { nonsense }\n",
            "stdio",
            "main.go:3:15: undefined: nonsense",
        ),
        ("package main\n\nfunc Other() {}\n", "handler", "neither func Handler"),
        ('package main\n\nimport _ "example.com/x"\n\nfunc main() {}\n', "stdio", "go mod vendor"),
    ],
)
def test_what_go_refuses_is_told(tmp_path: Path, text: str, interface: str, said: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.go").write_text(text)
    outcome = compile_go(source, tmp_path / "out", "main.go", interface)
    assert outcome.code == 1
    assert said in outcome.stderr
    assert list((tmp_path / "out").iterdir()) == []
