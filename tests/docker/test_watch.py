"""`sandbox watch` as a process of its own, and `sandbox invoke` through it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.store.owners import LABEL_FUNCTION, LABEL_STORE
from tests.test_signals import IGNORING_SIGINT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine

PATIENCE = 60.0
HELLO = "def handler(ctx):\n    ctx.log.warn('said', {'n': 1})\n    return {'version': 1, **ctx.input}\n"
FAILS = "def handler(ctx):\n    raise ValueError('no')\n"
SLEEPS = "import sys, time\nprint('asleep', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
GO = 'package function\n\nimport "alyx"\n\nfunc Handler(ctx *alyx.Context) (any, error) { return 1, nil }\n'

Process = "subprocess.CompletedProcess[str]"


class Watch:
    """A running `sandbox watch --json`."""

    def __init__(
        self, environment: dict[str, str], cwd: Path, *, started_by: tuple[str, ...] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [*started_by, sys.executable, "-m", "sandbox_cli", "watch", "--json"],
            env=environment, cwd=cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))

    def next(self) -> dict[str, Any]:
        return self._events.get(timeout=PATIENCE)

    def end(self, number: signal.Signals) -> str:
        """Send a signal, wait for the end; what it had to say on stderr."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        with self.process:
            complaints = self.process.stderr.read()
            self._reader.join(PATIENCE)
            self.process.wait(PATIENCE)
        return complaints


@pytest.fixture
def environment(store: Path, functions: Path, tmp_path: Path) -> dict[str, str]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SANDBOX_")}
    return clean | {
        "SANDBOX_STORE": str(store),
        "SANDBOX_FUNCTIONS": str(functions),
        "XDG_RUNTIME_DIR": str(runtime),
    }


@pytest.fixture
def watch(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    started: list[Watch] = []

    def start(**options: Any) -> Watch:
        started.append(Watch(environment, tmp_path, **options))
        return started[-1]

    yield start
    for item in started:
        if item.process.returncode is None:
            item.end(signal.SIGTERM)


@pytest.fixture
def sandbox(environment: dict[str, str], tmp_path: Path) -> Callable[..., Process]:
    def run(*arguments: object, flags: tuple[str, ...] = ()) -> Process:
        return subprocess.run(
            [sys.executable, *flags, "-m", "sandbox_cli", *map(str, arguments)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


def containers(engine: DockerEngine, store: Path, function: str) -> list[Any]:
    ours = {LABEL_STORE: (store / "id").read_text(), LABEL_FUNCTION: function}
    return engine.containers(ours)


def without_figures(ended: Process) -> tuple[int, str, str]:
    """What a command printed, without the figures that differ from run to run."""
    errors = re.sub(r"in \d+ ms · (cold|warm) · \S+mb", "in … ms", ended.stderr)
    output = re.sub(r'"(\w+_(ms|bytes|id)|timestamp)": [^,}]+|"cold": \w+', "…", ended.stdout)
    return ended.returncode, output, errors


def test_invocations_go_through_it_and_edits_are_seen(
    *,
    watch: Callable[[], Watch],
    sandbox: Callable[..., Process],
    write: Callable[..., None],
    functions: Path,
    environment: dict[str, str],
    engine: DockerEngine,
    store: Path,
) -> None:
    write("hello/index.py", HELLO)
    write("fails/index.py", FAILS)
    watching = watch()
    ready = watching.next()
    assert ready["event"] == "ready"
    assert list(ready["added"]) == ["fails", "hello"]
    assert ready["problems"] == []

    # Through the socket, and light: what only a start of its own needs is not imported.
    ended = sandbox("invoke", "hello", "-d", '{"a": "ü"}', flags=("-X", "importtime"))
    imported = set(re.findall(r"\| +([\w.]+)$", ended.stderr, re.MULTILINE))
    assert json.loads(ended.stdout) == {"version": 1, "a": "ü"}
    assert "sandbox.local.client" in imported
    assert not imported & {"docker", "pydantic", "yaml", "sandbox.sandbox", "asyncio"}

    # It prints what a start of its own prints.
    for arguments in (
        ["hello", "-d", '{"a": "ü"}'],
        ["hello", "--json"],
        ["fails"],
        ["nope"],
        ["nope", "--json"],
        ["hello", "-d", "[]"],
        ["hello", "--auth", "{}"],
        ["hello", "--timeout", "0"],
    ):
        through = sandbox("invoke", *arguments)
        alone = sandbox("invoke", *arguments, "--local")
        assert without_figures(through) == without_figures(alone)

    # An edit is a version, and is what the next invocation runs.
    write("hello/index.py", HELLO.replace("1,", "2,"))
    reloaded = watching.next()
    assert reloaded["event"] == "reloaded"
    assert list(reloaded["changed"]) == ["hello"]
    response = json.loads(sandbox("invoke", "hello", "--json").stdout)
    assert response["output"] == {"version": 2}
    assert response["stats"]["version"] == reloaded["changed"]["hello"]

    # A manifest with a mistake is told with its place, and mended.
    write("hello/function.yaml", "timeout: 5s\nmemroy: 64mb\n")
    broken = watching.next()
    (problem,) = broken["problems"]
    assert (problem["file"], problem["line"]) == ("functions/hello/function.yaml", 2)
    assert "memory" in problem["hint"]
    assert sandbox("invoke", "hello").returncode == 2
    write("hello/function.yaml", "timeout: 5s\n")
    assert watching.next()["mended"] == [problem]
    assert sandbox("invoke", "hello").returncode == 0

    # With other settings there is no socket; with the right ones there is one more.
    sockets = list((functions.parent / "runtime/alyx-sandbox").glob("*.sock"))
    assert len(sockets) == 1
    (functions.parent / "sandbox.yaml").write_text("concurrency: 3\n")
    ended = sandbox("invoke", "hello", flags=("-X", "importtime"))
    assert ended.returncode == 0
    assert "sandbox.sandbox" in ended.stderr

    assert watching.end(signal.SIGINT) == ""
    assert watching.process.returncode == 0
    assert list((functions.parent / "runtime/alyx-sandbox").iterdir()) == []
    assert containers(engine, store, "hello") == []


def test_a_version_that_cannot_be_built_does_not_replace_a_good_one(
    watch: Callable[[], Watch], sandbox: Callable[..., Process], write: Callable[..., None]
) -> None:
    write("go/main.go", GO)
    watching = watch()
    watching.next()
    assert sandbox("invoke", "go").stdout == "1\n"
    write("go/main.go", GO.replace("return 1, nil", "return oops"))
    assert list(watching.next()["changed"]) == ["go"]
    assert sandbox("invoke", "go").stdout == "1\n"
    write("go/main.go", GO.replace("return 1", "return 2"))
    assert list(watching.next()["changed"]) == ["go"]
    assert sandbox("invoke", "go").stdout == "2\n"


@pytest.fixture
def watching(
    watch: Callable[[], Watch], environment: dict[str, str], write: Callable[..., None]
) -> Watch:
    """A watch that is ready, of a function that sleeps and of one that answers."""
    environment["SANDBOX_POOL__ENABLED"] = "false"  # so that every container has an invocation
    write("sleeps/index.py", SLEEPS)
    write("hello/index.py", HELLO)
    watching = watch()
    watching.next()
    return watching


def test_ctrl_c_ends_the_invocation_not_the_watch(
    *,
    watching: Watch,
    environment: dict[str, str],
    sandbox: Callable[..., Process],
    engine: DockerEngine,
    store: Path,
    tmp_path: Path,
) -> None:
    with invoking("sleeps", environment, tmp_path) as process:
        assert len(containers(engine, store, "sleeps")) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        wait_until(lambda: containers(engine, store, "sleeps") == [])
    with invoking("sleeps", environment, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: containers(engine, store, "sleeps") == [])
    assert sandbox("invoke", "hello").returncode == 0

    # The watch that ends takes what is under way with it.
    with invoking("sleeps", environment, tmp_path) as process:
        assert watching.end(signal.SIGTERM) == ""
        assert watching.process.returncode == 0
        assert process.wait(PATIENCE) == 1
        assert "CANCELLED" in process.stderr.read()  # type: ignore[union-attr]
    assert containers(engine, store, "sleeps") == []


def test_a_killed_watch_does_not_block_the_next(
    *,
    watching: Watch,
    watch: Callable[[], Watch],
    environment: dict[str, str],
    sandbox: Callable[..., Process],
    engine: DockerEngine,
    store: Path,
    tmp_path: Path,
) -> None:
    with invoking("sleeps", environment, tmp_path) as process:
        watching.end(signal.SIGKILL)
        assert process.wait(PATIENCE) == 3
        assert "ended before it answered" in process.stderr.read()  # type: ignore[union-attr]
    # It left its socket; an invocation runs by itself, and clears the container.
    assert sandbox("invoke", "hello").returncode == 0
    wait_until(lambda: containers(engine, store, "sleeps") == [])
    again = watch()
    again.next()
    ended = sandbox("invoke", "hello", flags=("-X", "importtime"))
    assert ended.returncode == 0
    assert "sandbox.sandbox" not in ended.stderr


def test_as_a_background_job_it_leaves_ctrl_c_to_the_job_in_the_foreground(
    watch: Callable[..., Watch], write: Callable[..., None]
) -> None:
    write("hello/index.py", HELLO)
    watching = watch(started_by=IGNORING_SIGINT)
    watching.next()
    watching.process.send_signal(signal.SIGINT)
    write("hello/index.py", HELLO.replace("1,", "2,"))
    assert list(watching.next()["changed"]) == ["hello"]
    assert watching.end(signal.SIGTERM) == ""
    assert watching.process.returncode == 0


@contextlib.contextmanager
def invoking(name: str, environment: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """`sandbox invoke` as a process; its function has begun to run."""
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox_cli", "invoke", name],
        env=environment, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "asleep" in process.stderr.readline()
        yield process
