"""Each abnormal end in a real container names its cause, the limit, what was seen, and the setting.

docs/causes.md is this table for people; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox, Settings
from sandbox.config.loading import merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.models import FunctionResponse

MIB = 1 << 20
LIMITS = {
    "pool": {"enabled": False},
    "limits": {"file_size": "4mb", "open_files": 64, "boot": "3s", "output": "1mb"},
}
MANIFEST = "timeout: 20s\nmemory: 64mb\ntmp: 8mb\npids: 32\n"
READ = "import json, os, sys\nsys.stdin.read()\n"
ANSWER = 'print(json.dumps({"success": True, "output": 1}))\n'
FILL = "file = open('/tmp/%d' % n, 'wb', buffering=0)\nfor _ in range(3): file.write(b'x' * MIB)\n"
FILL_TMP = "MIB = 1 << 20\nfor n in range(9):\n    " + FILL.replace("\n", "\n    ") + "\n"
CHILD = "import subprocess\ncode = subprocess.run([sys.executable, '-c', %r]).returncode\n"
HOG = "x = b'x' * (256 << 20)"
FORKS = "import time\nfor _ in range(64):\n    if os.fork() == 0: time.sleep(60)\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A function, and how it ends: code, setting with its limit, and what was seen if it is known.

    `hits` are the settings in `stats.limits_hit`.
    """

    code: str
    ends: str
    setting: str | None = None
    limit: float | None = None
    observed: Any = None
    hits: tuple[str, ...] = ()
    words: str = ""
    file: str = "index.py"


ANY = object()  # known, and above zero

CASES: dict[str, Case] = {
    "over its memory": Case(
        code=READ + HOG, ends="OUT_OF_MEMORY", setting="memory", limit=64 * MIB, observed=ANY
    ),
    "a child over the memory, and it fails": Case(
        code=READ + CHILD % HOG + "sys.exit(code and 3)",
        ends="OUT_OF_MEMORY", setting="memory", limit=64 * MIB, observed=ANY,
        words="a process of it was killed",
    ),
    "a child over the memory, and it answers": Case(
        code=READ + CHILD % HOG + ANSWER, ends="OK", hits=("memory",)
    ),
    "a kill of itself": Case(code=READ + "os.kill(os.getpid(), 9)", ends="FUNCTION_CRASHED"),
    "out of memory while it is imported": Case(
        code=HOG + "\ndef handler(ctx): return 1\n",
        ends="INIT_FAILED", setting="memory", limit=64 * MIB, observed=ANY,
    ),
    "too many processes": Case(
        code=READ + FORKS, ends="FUNCTION_CRASHED", setting="pids", limit=32, observed=32,
        hits=("pids",), words="32 processes and threads",
    ),
    "too many processes, and it lives with that": Case(
        code=READ + "try:\n    " + FORKS.replace("\n", "\n    ")
        + "\nexcept OSError: pass\n" + ANSWER,
        ends="OK", hits=("pids",),
    ),
    "/tmp is full": Case(
        code=READ + FILL_TMP, ends="FUNCTION_CRASHED", setting="tmp", limit=8 * MIB,
        observed=8 * MIB, hits=("tmp",), words="/tmp was full",
    ),
    "/tmp is full, and it says so": Case(
        code="def handler(ctx):\n    " + FILL_TMP.replace("\n", "\n    "),
        ends="FUNCTION_ERROR", hits=("tmp",),
    ),
    "/tmp was full, and it has tidied up": Case(
        code=READ + "import shutil\ntry:\n    " + FILL_TMP.replace("\n", "\n    ")
        + "\nfinally:\n    for name in os.listdir('/tmp'): os.unlink('/tmp/' + name)\n",
        ends="FUNCTION_CRASHED", setting="tmp", limit=8 * MIB, hits=("tmp",),
    ),
    "/dev/shm is full": Case(
        code=READ + "file = open('/dev/shm/x', 'wb', buffering=0)\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for n in range(9):\n    file = open('/dev/shm/%d' % n, 'wb', buffering=0)\n"
        "    for _ in range(3): file.write(b'x' * (1 << 20))\n",
        ends="FUNCTION_CRASHED", setting="tmp", limit=8 * MIB, observed=8 * MIB, hits=("tmp",),
        words="/dev/shm was full",
    ),
    "a file that is too large": Case(
        code=READ + "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "file = open('/tmp/x', 'wb', buffering=0)\nwhile True: file.write(b'x' * (1 << 20))\n",
        ends="FUNCTION_CRASHED", setting="limits.file_size", limit=4 * MIB, observed=4 * MIB,
        hits=("limits.file_size",), words="SIGXFSZ",
    ),
    "a file that is too large, where the signal is ignored": Case(
        code=READ + "file = open('/tmp/x', 'wb', buffering=0)\n"
        "while True: file.write(b'x' * (1 << 20))\n",
        ends="FUNCTION_CRASHED", setting="limits.file_size", limit=4 * MIB, observed=4 * MIB,
        hits=("limits.file_size",),
    ),
    "too many open files": Case(
        code=READ + "files = []\nwhile True: files.append(open('/dev/null'))\n",
        ends="FUNCTION_CRASHED", setting="limits.open_files", limit=64,
        hits=("limits.open_files",),
    ),
    "too many open files in a handler": Case(
        code="def handler(ctx):\n    files = []\n    try:\n"
        "        while True: files.append(open('/dev/null'))\n    finally:\n        files.clear()\n",
        ends="FUNCTION_ERROR", hits=("limits.open_files",),
    ),
    "too many open files in JavaScript": Case(
        file="index.mjs",
        code="import { openSync } from 'node:fs';\n"
        "export default function handler() { for (;;) openSync('/dev/null'); }\n",
        ends="EMFILE", hits=("limits.open_files",),
    ),
    "no network": Case(
        code=READ + "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)\n",
        ends="FUNCTION_CRASHED", setting="network", limit=0, hits=("network",),
    ),
    "an end without a word": Case(code=READ + "os._exit(7)", ends="FUNCTION_CRASHED"),
    "no response": Case(code=READ + "print('hello')", ends="INVALID_RESPONSE"),
    "too much output": Case(
        code=READ + "while True: print('x' * 65536)",
        ends="OUTPUT_TOO_LARGE", setting="limits.output", limit=MIB, observed=ANY,
    ),
    "too many logs": Case(
        code=READ + "while True: print('x' * 65536, file=sys.stderr)",
        ends="OUTPUT_TOO_LARGE", setting="limits.logs", limit=MIB, observed=ANY,
    ),
    "a boot that takes too long": Case(
        code="import time\ntime.sleep(60)\ndef handler(ctx): return 1\n",
        ends="INIT_FAILED", setting="limits.boot", limit=3, observed=ANY,
    ),
}  # fmt: skip
# gVisor counts neither processes nor kills inside; these end in another way there.
UNDER_GVISOR = (
    "a kill of itself", "/tmp is full", "/dev/shm is full", "a file that is too large",
    "too many open files", "no network",
)  # fmt: skip


class Stage:
    """All functions of `CASES`, behind one sandbox for each runtime class."""

    def __init__(self, directory: Path, engine: DockerEngine, store: Path) -> None:
        self._directory, self._engine, self._store = directory, engine, store
        self._sandboxes: dict[str, Sandbox] = {}
        for number, case in enumerate(CASES.values()):
            folder = directory / f"case-{number}"
            folder.mkdir()
            (folder / case.file).write_text(case.code)
            (folder / "function.yaml").write_text(MANIFEST)

    def run(self, name: str, runtime_class: str = "crun", **options: Any) -> FunctionResponse:
        if runtime_class not in self._sandboxes:
            settings = {"store": self._store, "engine": {"runtime_class": runtime_class}}
            self._sandboxes[runtime_class] = Sandbox(
                self._directory,
                settings=Settings.model_validate(merge(LIMITS, settings)),
                engine=self._engine,
            )
        return self._sandboxes[runtime_class].invoke(name, **options)

    def case(self, name: str, runtime_class: str = "crun", **options: Any) -> FunctionResponse:
        return self.run(f"case-{list(CASES).index(name)}", runtime_class, **options)

    def close(self) -> None:
        for sandbox in self._sandboxes.values():
            sandbox.close()


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    engine: DockerEngine,
    store: Path,  # noqa: F811
) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("causes"), engine, store)
    yield stage
    stage.close()


def check(case: Case, response: FunctionResponse) -> None:
    error = response.error
    assert (error.code if error else "OK") == case.ends, response
    assert tuple(hit.setting for hit in response.stats.limits_hit) == case.hits, response
    if error is None:
        return
    assert case.words in error.message
    if case.setting is None:
        assert "setting" not in error.details
        return
    seen: Mapping[str, Any] = error.details
    assert (seen["setting"], seen["limit"]) == (case.setting, case.limit)
    assert seen["observed"] > 0 if case.observed is ANY else seen["observed"] == case.observed


@pytest.mark.parametrize("name", CASES)
def test_it_names_its_cause(stage: Stage, name: str) -> None:
    check(CASES[name], stage.case(name))


@pytest.mark.parametrize("name", UNDER_GVISOR)
def test_under_gvisor_it_names_the_same_cause(stage: Stage, name: str) -> None:
    check(CASES[name], stage.case(name, "gvisor"))


@pytest.mark.parametrize("name", ["over its memory", "too many processes", "a kill of itself"])
def test_under_runc_it_names_the_same_cause(stage: Stage, name: str) -> None:
    check(CASES[name], stage.case(name, "runc"))


@pytest.mark.parametrize(
    "name", ["over its memory", "a child over the memory, and it answers", "too many processes"]
)
def test_under_gvisor_a_limit_of_the_container_ends_all_of_it(stage: Stage, name: str) -> None:
    """Nothing inside is left to report. Memory it is only if the engine has heard so."""
    error = stage.case(name, "gvisor").error
    assert error is not None
    if error.code == "OUT_OF_MEMORY":
        assert error.details["setting"] == "memory"
        assert error.details["observed"] == error.details["limit"]
    else:
        assert error.code == "FUNCTION_CRASHED"
        assert "together with its container (perhaps" in error.message


def test_a_timeout_tells_where_the_time_went(stage: Stage) -> None:
    error = stage.case("a boot that takes too long", timeout=2).error
    assert error is not None
    assert error.code == "TIMEOUT"
    assert (error.details["setting"], error.details["limit"]) == ("timeout", 2)
    assert error.details["observed"] >= 2
    queue, boot, run = (error.details[f"{name}_ms"] for name in ("queue", "boot", "run"))
    assert queue + boot + run == pytest.approx(error.details["observed"] * 1000, abs=100)
    assert boot > run == 0
    assert "was its boot" in error.message
