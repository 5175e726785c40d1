"""The fake engine is as the real one: the same behaviour leads to the same outcome on both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox, Settings
from sandbox.testing import FakeEngine, FakeFunction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox import FunctionResponse
    from sandbox.engine.base import Engine
    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.testing import FakeContext, FakeProcess


@dataclass(frozen=True)
class Case:
    """A handler's code, and what plays it; `stdio` where it is a script."""

    code: str
    fake: Any
    stdio: bool = False
    manifest: str = "memory: 32mb\n"


def fails(ctx: FakeContext) -> None:
    raise type("E", (Exception,), {"code": "SAD"})("it is")


def raises(ctx: FakeContext) -> None:
    raise ValueError("no such user")


def says(ctx: FakeContext) -> str:
    ctx.process.log("warn", "careful", {"n": 1})
    ctx.process.write("printed\n", "stderr")
    return "said"


def fails_to_import(process: FakeProcess) -> None:
    raise ImportError("No module named 'nothing'")


def babbles(ctx: FakeContext) -> None:
    ctx.process.write("hello\n")
    ctx.process.exit()


def lingers(ctx: FakeContext) -> None:
    ctx.process.respond({"success": True, "output": 1})
    ctx.process.stall()


HANDLER = "import os, signal, sys, time\ndef handler(ctx):\n    "
SCRIPT = "import json, os, signal, sys, time\nrequest = json.load(sys.stdin)\n"
CASES = {
    "echo": Case(HANDLER + "return ctx.input", FakeFunction()),
    "error": Case(
        HANDLER + "raise type('E', (Exception,), {'code': 'SAD'})('it is')",
        fails,
    ),
    "raise": Case(HANDLER + "raise ValueError('no such user')", raises),
    "no JSON": Case(HANDLER + "return object()", lambda ctx: object()),
    "logs": Case(
        HANDLER + "ctx.log.warn('careful', {'n': 1}); print('printed'); return 'said'", says
    ),
    "exit": Case(HANDLER + "os._exit(3)", lambda ctx: ctx.process.exit(3)),
    "signal": Case(
        HANDLER + "os.kill(os.getpid(), signal.SIGSEGV)", lambda ctx: ctx.process.die(11)
    ),
    "memory": Case(HANDLER + "bytearray(1 << 28)", lambda ctx: ctx.process.run_out_of_memory()),
    "stall": Case(
        HANDLER + "time.sleep(60)", lambda ctx: ctx.process.stall(), manifest="timeout: 3s\n"
    ),
    "flood of logs": Case(
        HANDLER + "\n    while True: print('x' * 1000)", lambda ctx: ctx.process.flood("stderr")
    ),
    "import": Case(
        "import nothing\ndef handler(ctx): ...", FakeFunction(boot=fails_to_import)
    ),
    "exit at boot": Case(
        "import os\nos._exit(3)\ndef handler(ctx): ...",
        FakeFunction(boot=lambda process: process.exit(3)),
    ),
    "script": Case(
        SCRIPT + "print(json.dumps({'success': True, 'output': request['input']}))",
        FakeFunction(),
        stdio=True,
    ),
    "script raises": Case(SCRIPT + "raise ValueError('no such user')", raises, stdio=True),
    "script babbles": Case(SCRIPT + "print('hello')", babbles, stdio=True),
    "script floods": Case(
        SCRIPT + "while True: print('x' * 1000)", lambda ctx: ctx.process.flood(), stdio=True
    ),
    "script lingers": Case(
        SCRIPT + "print('{\"success\": true, \"output\": 1}', flush=True); time.sleep(60)",
        lingers,
        stdio=True,
    ),
}  # fmt: skip


def outcome(response: FunctionResponse) -> dict[str, Any]:
    """What a caller sees of it, without figures and traces."""
    error, stats = response.error, response.stats
    assert stats is not None
    same = ("limit", "setting", "exit_code", "signal")
    return {
        "output": response.output,
        "code": error and error.code,
        "message": error and error.code == "SAD" and error.message,
        "details": error and {name: error.details.get(name) for name in same},
        "told": error and set(error.details),
        "logged": bool(response.logs),
        "logs": {(it.level, it.message, str(it.data)) for it in response.logs if it.data},
        "cold": stats.cold,
        "limits_hit": [hit.setting for hit in stats.limits_hit],
        "runtime_class": stats.runtime_class,
        "version": stats.version,
        "measured": (stats.cpu_ms is not None, stats.peak_memory_bytes is not None),
    }


@pytest.mark.parametrize("name", CASES)
def test_the_same_behaviour_has_the_same_outcome(
    name: str, functions: Path, write: Callable[..., None], settings: Settings, engine: DockerEngine
) -> None:
    case = CASES[name]
    write("f/index.py", case.code)
    write("f/function.yaml", case.manifest)
    limited = settings.model_copy(
        update={"limits": settings.limits.model_copy(update={"logs": 100_000, "output": 100_000})}
    )

    def run(engine: Engine) -> dict[str, Any]:
        with Sandbox(functions, settings=limited, engine=engine) as sandbox:
            assert (sandbox.functions["f"].interface == "stdio") == case.stdio
            return outcome(sandbox.invoke("f", {"a": 1}))

    assert run(FakeEngine(default=case.fake)) == run(engine)
