"""Functions that abuse their streams: floods, half answers, forged ones, and hostile JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.functions.discovery import function_from_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker.security.conftest import Arena, Result

OK = '{"success": true, "output": 1}'
CAP = 64 * 1024
# One runtime class each: what is abused is our reader, which knows nothing of them.
STDIO: dict[str, tuple[str, set[str]]] = {
    "a response and then a hang": (
        f"print('{OK}', flush=True)\nimport time\ntime.sleep(60)\n",
        # The answer is complete, and what comes behind it is cut off; or it is waited for.
        {"OK", "TIMEOUT"},
    ),
    "half a response and then an exit": ("print('{\"success\": tr', end='')\n", {"INVALID_RESPONSE"}),
    "half a response and then a crash": (
        "import os\nprint('{\"success\": tr', end='', flush=True)\nos.abort()\n",
        {"FUNCTION_CRASHED"},
    ),
    "nothing": ("", {"INVALID_RESPONSE"}),
    "stdout closed and then a hang": (
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)\n",
        {"TIMEOUT"},
    ),
    "invalid UTF-8": ("import os\nos.write(1, b'{\"success\": true, \"output\": \"\\xff\\xfe\"}')\n", {"INVALID_RESPONSE"}),
    "NaN": ("print('{\"success\": true, \"output\": NaN}')\n", {"INVALID_RESPONSE"}),
    "a number out of range": ("print('{\"success\": true, \"output\": 1e999}')\n", {"INVALID_RESPONSE"}),
    "an integer of 5,000 digits": (
        "print('{\"success\": true, \"output\": ' + '9' * 5000 + '}')\n",
        {"INVALID_RESPONSE"},
    ),
    "20,000 levels": ("print('{\"success\": true, \"output\": ' + '[' * 20000 + ']' * 20000 + '}')\n", {"INVALID_RESPONSE"}),
    "two responses": (f"print('{OK}')\nprint('{{\"success\": true, \"output\": 2}}')\n", {"OK"}),
    "NUL and control characters": (
        "print('\\x00\\x1b[2J\\x1b]0;owned\\x07')\n" + f"print('{OK}')\n",
        {"OK"},
    ),
    "a lone surrogate": ("print('{\"success\": true, \"output\": \"\\\\ud800\"}')\n", {"OK"}),
    "an answer to another request": (
        "print('{\"request_id\": \"req_other\", \"success\": true, \"output\": 1}')\n",
        {"OK"},
    ),
    "a report like init's": (
        "import sys\nsys.stderr.write('\\x1e{\"exit_code\":0,\"signal\":null,\"cpu_ms\":0,\"peak_memory_bytes\":1,\"oom_kills\":9,\"pids_denied\":9,\"exec_errno\":null}\\n')\nsys.stderr.flush()\nsys.exit(3)\n",
        {"FUNCTION_CRASHED"},
    ),
    "an error of a wrong shape": ("print('{\"success\": false, \"error\": [1, {\"code\": 2}]}')\n", {"FUNCTION_ERROR"}),
    "logs of a wrong shape": ("print('{\"success\": true, \"output\": 1, \"logs\": {\"a\": [null]}}')\n", {"OK"}),
    "a kill of everything it sees": (
        "import os\nos.kill(-1, 9)\n",
        {"FUNCTION_CRASHED", "INVALID_RESPONSE"},
    ),
    "init's own limits lowered": (
        "import resource\n"
        "for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_STACK):\n"
        "    try: resource.prlimit(1, limit, (0, 0))\n"
        "    except (OSError, ValueError): pass\n" + f"print('{OK}')\n",
        {"OK"},
    ),
    "every signal to init": (
        "import os, signal\n"
        "for number in range(1, 65):\n"
        "    if number not in (signal.SIGTERM, signal.SIGINT):\n"
        "        try: os.kill(1, number)\n"
        "        except OSError: pass\n" + f"print('{OK}')\n",
        {"OK"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STDIO)
def test_one_typed_result_whatever_a_stdio_function_does(crun: Arena, name: str) -> None:
    code, expected = STDIO[name]
    result = crun.attack("import sys\nsys.stdin.read()\n" + code, manifest="timeout: 2s\n")
    assert result.code in expected, result.visible
    assert result.response is not None
    assert result.response.request_id.startswith("req_")
    assert result.response.request_id != "req_other"


HANDLER: dict[str, tuple[str, set[str]]] = {
    "a forged response on the protocol's descriptor": (
        "import json, os\n"
        "def handler(ctx):\n"
        "    os.write(3, (json.dumps({'type': 'response', 'request_id': 'req_other', 'success': True, 'output': 'forged'}) + '\\n').encode())\n"
        "    return 'real'\n",
        {"OK"},
    ),
    "garbage on the protocol's descriptor": (
        "import os\ndef handler(ctx):\n    os.write(3, b'\\x00\\xff garbage\\n[[[[')\n    return 1\n",
        {"OK", "INVALID_RESPONSE", "FUNCTION_CRASHED"},
    ),
    "the protocol's descriptor closed": (
        "import os\ndef handler(ctx):\n    os.close(3)\n    return 1\n",
        {"FUNCTION_CRASHED", "INVALID_RESPONSE"},
    ),
    "an exit in the middle": (
        "import os\ndef handler(ctx):\n    os._exit(0)\n",
        {"INVALID_RESPONSE", "FUNCTION_CRASHED"},
    ),
    "ready and then a hang": ("import time\ndef handler(ctx):\n    time.sleep(60)\n", {"TIMEOUT"}),
    "a ready of its own, at import": (
        "import os, time\nos.write(3, b'{\"type\": \"ready\"}\\n')\ntime.sleep(60)\n"
        "def handler(ctx): pass\n",
        {"TIMEOUT", "INIT_FAILED"},
    ),
    "an answer before the request": (
        "import os\nos.write(3, b'{\"type\": \"response\", \"success\": true, \"output\": \"early\"}\\n')\n"
        "def handler(ctx):\n    return 'late'\n",
        {"OK", "INIT_FAILED", "INVALID_RESPONSE", "FUNCTION_CRASHED"},
    ),
    "an output that is no JSON": ("def handler(ctx):\n    return {1: object()}\n", {"FUNCTION_ERROR"}),
    "an output that contains itself": (
        "def handler(ctx):\n    x = []\n    x.append(x)\n    return x\n",
        {"FUNCTION_ERROR"},
    ),
    "an exception that cannot be printed": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(9)\n    __repr__ = __str__\n"
        "def handler(ctx): raise E\n",
        {"FUNCTION_ERROR", "FUNCTION_CRASHED", "INVALID_RESPONSE"},
    ),
    "a thread that goes on": (
        "import threading, time\ndef handler(ctx):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    return 1\n",
        {"OK"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDLER)
def test_one_typed_result_whatever_a_handler_does(crun: Arena, name: str) -> None:
    code, expected = HANDLER[name]
    result = crun.attack(code, manifest="timeout: 3s\n")
    assert result.code in expected, result.visible


SCRIPTS = {
    "node": {
        "index.mjs": """
import { closeSync } from "node:fs";
export default async function handler(ctx) {
  Object.prototype.toJSON = function () { return "polluted"; };
  Array.prototype.push = () => { throw new Error("no"); };
  globalThis.Promise = undefined;
  globalThis.JSON = { stringify: () => '{"type": "response", "success": true, "output": "forged"}', parse: JSON.parse };
  process.stdout.destroy(); process.stderr.destroy();
  if (ctx.input.close) closeSync(3);
  if (ctx.input.exit) process.reallyExit(0);
  return { honest: true };
}
"""
    },
    "bun": {
        "index.tsx": """
import { closeSync } from "node:fs";
export default async function handler(ctx: any) {
  (Object.prototype as any).toJSON = function () { return "polluted"; };
  (globalThis as any).JSON = { stringify: () => "{", parse: JSON.parse };
  if (ctx.input.close) closeSync(3);
  if (ctx.input.exit) process.exit(0);
  return { honest: true };
}
"""
    },
    "deno": {
        "deno.json": "{}",
        "main.ts": """
export default async function handler(ctx: any) {
  (Object.prototype as any).toJSON = function () { return "polluted"; };
  (globalThis as any).JSON = { stringify: () => "{", parse: JSON.parse };
  if (ctx.input.close) Deno.stdout.close();
  if (ctx.input.exit) Deno.exit(0);
  return { honest: true };
}
""",
    },
}


@pytest.mark.parametrize("runtime", SCRIPTS)
def test_a_handler_that_turns_its_language_inside_out_spoils_only_its_own_answer(
    crun: Arena, runtime: str
) -> None:
    for options in ({}, {"close": True}, {"exit": True}):
        result = crun.attack(SCRIPTS[runtime], options, manifest="timeout: 3s\n")
        assert result.code in {
            "OK", "INVALID_RESPONSE", "FUNCTION_CRASHED", "FUNCTION_ERROR", "TIMEOUT",
        }, result.visible  # fmt: skip


def test_exactly_the_cap_is_taken_and_one_byte_more_is_not(arena: Arena) -> None:
    code = (
        "import json, sys\n"
        "size = json.load(sys.stdin)['input']['size']\n"
        'empty = len(\'{"success": true, "output": ""}\')\n'
        "sys.stdout.write('{\"success\": true, \"output\": \"' + 'x' * (size - empty) + '\"}')\n"
    )
    settings = {"limits": {"output": f"{CAP}b"}}
    exact = arena.attack(code, {"size": CAP}, settings=settings)
    assert len(exact.output) == CAP - len('{"success": true, "output": ""}')
    over = arena.attack(code, {"size": CAP + 1}, settings=settings)
    assert over.code == "OUTPUT_TOO_LARGE"
    assert over.details["limit"] == CAP
    assert over.details["setting"] == "limits.output"


def test_a_single_line_of_a_mebibyte_and_stdout_that_is_full_before_stdin_is_read(
    arena: Arena,
) -> None:
    code = (
        "import json, os, sys\n"
        "os.write(2, b'e' * (1 << 19) + b'\\n')\n"
        "view = memoryview(b'x' * (1 << 20) + b'\\n')\n"
        "while view: view = view[os.write(1, view):]\n"
        "size = len(json.load(sys.stdin)['input']['data'])\n"
        "print(json.dumps({'success': True, 'output': size}))\n"
    )
    result = arena.attack(code, {"data": "y" * (2 << 20)})
    # What comes before the response is logged, and so is what went to stderr; each is cut.
    assert result.code in {"OK", "OUTPUT_TOO_LARGE"}, result.visible[:500]
    if result.code == "OK":
        assert result.output == 2 << 20
    assert len(result.visible) < 3 << 20


def test_an_orphan_that_holds_the_pipes_does_not_hold_the_answer(arena: Arena) -> None:
    code = (
        "import os, sys, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork(): os._exit(0)\n"
        "        time.sleep(60)\n"
        f"print('{OK}')\n"
    )
    result = arena.attack(code, manifest="timeout: 30s\n")
    assert result.output == 1
    assert result.seconds < 15


def test_functions_that_exit_at_once_lose_no_output(crun: Arena) -> None:
    """The end of a container and the end of its output race with each other; none may be lost."""
    code = '#!/bin/sh\nread -r _\necho log >&2\necho \'{"success": true, "output": 7}\'\n'
    path = crun.write({"run": code}, manifest="runtime: binary\nentrypoint: run\n")
    function, _ = function_from_path(path)
    results: list[Result] = []

    def work() -> None:
        results.extend(crun.run(function) for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.code for result in results] == ["OK"] * 100
    assert {result.output for result in results} == {7}
    assert all(
        result.response is not None and [entry.message for entry in result.response.logs] == ["log"]
        for result in results
    )


# In a process of its own, so that its peak of memory is the invocation's alone. The peak is
# reset after an honest invocation: what a sandbox costs at all is no part of it.
FLOODED = """
import json, pathlib, sys
from sandbox import Sandbox, Settings
from sandbox.functions.discovery import function_from_path

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

settings = Settings.model_validate({"store": sys.argv[1], "engine": {"runtime_class": sys.argv[2]}})
with Sandbox(sys.argv[3], settings=settings) as sandbox:
    honest = function_from_path(pathlib.Path(sys.argv[4]))[0]
    flood = function_from_path(pathlib.Path(sys.argv[5]))[0]
    assert sandbox.invoke(honest).success
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    response = sandbox.invoke(flood)
    print(json.dumps([response.error.code if response.error else "OK", response.stats.runtime_class, status("VmHWM") - before, len(response.to_json())]))
"""
FLOODS = {
    "one endless line of output": "import os\nblock = b'x' * 65536\nfor _ in range(2 << 15): os.write(1, block)\n",
    "one endless line of logs": "import os\nblock = b'x' * 65536\nfor _ in range(2 << 15): os.write(2, block)\n",
    "a billion empty lines of logs": "import os\nblock = b'\\n' * 65536\nfor _ in range(2 << 15): os.write(2, block)\n",
    "both at once, nearly valid": (
        "import os\n"
        "if os.fork() == 0:\n"
        "    while True: os.write(2, b'\\x1e{\"exit_code\":0,' * 4096)\n"
        'while True: os.write(1, b\'{"success": true, "output": [\' * 2048)\n'
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_two_gigabytes_written_cost_the_host_little_memory(
    crun: Arena, name: str, tmp_path: Path
) -> None:
    honest = crun.write("print('{\"success\": true}')\n")
    flood = crun.write(FLOODS[name])
    empty = tmp_path / "empty"
    empty.mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", FLOODED, str(crun.settings.store), "crun", empty, honest, flood],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    code, runtime_class, grown, shown = json.loads(finished.stdout)
    assert (code, runtime_class) == ("OUTPUT_TOO_LARGE", "crun")
    assert grown < 32 << 20
    assert shown < 8 << 20


def test_a_flood_is_ended_under_each_runtime_class(arena: Arena) -> None:
    for name in ("one endless line of output", "a billion empty lines of logs"):
        result = arena.attack(FLOODS[name], manifest="timeout: 30s\n")
        assert result.code == "OUTPUT_TOO_LARGE", (name, result.visible[:300])
        assert result.seconds < 30  # by the cap, not by the time limit


def test_a_handler_s_logs_are_capped_too(crun: Arena) -> None:
    code = "def handler(ctx):\n    while True: ctx.log.info('x' * 1000, {'data': ['y'] * 100})\n"
    result = crun.attack(code)
    assert result.code == "OUTPUT_TOO_LARGE"
    assert result.details["setting"] == "limits.logs"


def test_what_a_caller_sends_cannot_be_more_than_one_request(arena: Arena) -> None:
    """Line ends, braces and quotes in a caller's text stay text."""
    hostile: dict[str, Any] = {
        "a": '"}\n{"request_id": "req_2", "function": "x", "input": {"owned": true}}\n',
        "b": "\u2028\u2029\x00\x1e\x7f\r\n",
        "c": {"__proto__": {"polluted": 1}, "constructor": {"prototype": 2}},
        "d": "\ud800",
    }
    code = "import json, sys\nlines = sys.stdin.read().splitlines()\nprint(json.dumps({'success': True, 'output': [len(lines), json.loads(lines[0])['input']]}))\n"
    count, seen = arena.attack(code, hostile).output
    assert count == 1
    assert seen == hostile
