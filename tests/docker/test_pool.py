"""The warm pool with real containers: asked once, never shared, refilled, replaced, given up."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox, Settings
from sandbox.cancellation import Cancellation
from sandbox.errors import BootFailedError, BuildFailedError, OverloadedError
from sandbox.store.owners import LABEL_FUNCTION
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine

    Open = Callable[..., AbstractContextManager[Sandbox]]
    Write = Callable[..., None]

PATIENCE = 60.0

STDIO = """
import json, os, sys, time
booted = time.time()
request = json.load(sys.stdin)
print(json.dumps({"success": True, "output": {"waited": time.time() - booted, **request["input"]}}))
"""

# Says what it finds, and leaves something of each kind behind.
TRACES = """
import os, pathlib, socket, subprocess
count = 0
listening = None

def handler(ctx):
    global count, listening
    count += 1
    places = [pathlib.Path("/tmp/trace"), pathlib.Path("/dev/shm/trace")]
    found = {
        "count": count,
        "files": [str(place) for place in places if place.exists()],
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "environment": os.environ.get("TRACE"),
        "uid": os.getuid(),
        "port": socket.socket().connect_ex(("127.0.0.1", 7777)),
    }
    listening = listening or socket.create_server(("127.0.0.1", 7777))
    for place in places:
        place.write_text("x")
    os.environ["TRACE"] = "x"
    if ctx.input.get("child"):
        subprocess.Popen(["sleep", "60"])
    return found
"""


def ready(sandbox: Sandbox, name: str) -> int:
    return sandbox.pool_states().get(name, {}).get("ready", 0)  # type: ignore[return-value]


@pytest.fixture
def open_sandbox(
    functions: Path, engine: DockerEngine, store: Path
) -> Iterator[Callable[..., Sandbox]]:
    """`open_sandbox(pool={…}, …)` is a Sandbox of the functions directory with these settings."""
    opened: list[Sandbox] = []

    def make(**changes: Any) -> Sandbox:
        settings = Settings.model_validate({"store": store} | changes)
        sandbox = Sandbox(functions, settings=settings, engine=engine)
        opened.append(sandbox)
        return sandbox

    yield make
    for sandbox in opened:
        sandbox.close()


@pytest.mark.parametrize("runtime_class", ["crun", "gvisor"])
def test_a_script_that_waits_for_its_request_has_booted_before_it_is_asked(
    open_sandbox: Callable[..., Sandbox], write: Write, runtime_class: str
) -> None:
    write("echo/index.py", STDIO)
    write("echo/function.yaml", "warm: 1\n")
    sandbox = open_sandbox(engine={"runtime_class": runtime_class})
    assert sandbox.invoke("echo", {"n": 1}).stats.cold
    wait_until(lambda: ready(sandbox, "echo"))
    time.sleep(0.2)  # what is measured: it waits so long at least
    response = sandbox.invoke("echo", {"n": 2})
    assert response.output["n"] == 2
    assert response.output["waited"] >= 0.2
    assert not response.stats.cold
    assert response.stats.boot_ms == 0
    assert response.stats.runtime_class == runtime_class


def test_nothing_passes_from_one_invocation_to_the_next(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    write("traces/index.py", TRACES)
    write("traces/function.yaml", "warm: 2\n")
    sandbox = open_sandbox()
    seen = []
    for _ in range(4):
        seen.append(sandbox.invoke("traces", {"child": True}))
        wait_until(lambda: ready(sandbox, "traces"))
    assert [response.stats.cold for response in seen] == [True, False, False, False]
    for response in seen:
        found = response.output
        assert found["count"] == 1
        assert found["files"] == []
        assert found["environment"] is None
        assert found["processes"] == 2  # init and itself
        assert found["port"] == errno.ECONNREFUSED
    assert len({response.output["uid"] for response in seen}) == len(seen)


def test_with_reuse_memory_stays_and_files_do_not(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    """The control of the test before: these traces can be found."""
    write("traces/index.py", TRACES)
    write("traces/function.yaml", "reuse: 3\n")
    sandbox = open_sandbox(ceilings={"reuse": 3})
    outputs = [sandbox.invoke("traces").output for _ in range(4)]
    assert [output["count"] for output in outputs] == [1, 2, 3, 1]
    assert [output["environment"] for output in outputs] == [None, "x", "x", None]
    assert [output["port"] == 0 for output in outputs] == [False, True, True, False]
    assert [output["files"] for output in outputs] == [[], [], [], []]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "again/index.mjs",
            "import fs from 'node:fs';\nlet count = 0;\nexport default (ctx) => {\n"
            "  const left = fs.readdirSync('/tmp');\n  fs.mkdirSync('/tmp/a/b', {recursive: true});\n"
            "  console.log('request', ++count);\n  return { count, left };\n};\n",
        ),
        (
            "again/main.go",
            'package function\n\nimport (\n\t"alyx"\n\t"fmt"\n\t"os"\n)\n\nvar count int\n\n'
            "func Handler(ctx *alyx.Context) (any, error) {\n"
            '\tleft, _ := os.ReadDir("/tmp")\n\tos.MkdirAll("/tmp/a/b", 0o755)\n\tcount++\n'
            '\tfmt.Println("request", count)\n'
            '\treturn map[string]any{"count": count, "left": append([]string{}, make([]string, len(left))...)}, nil\n}\n',
        ),
    ],
    ids=["node", "go"],
)
def test_with_reuse_each_response_has_its_own_logs_and_figures(
    open_sandbox: Callable[..., Sandbox], write: Write, path: str, source: str
) -> None:
    write(path, source)
    write("again/function.yaml", "reuse: 10\n")
    sandbox = open_sandbox(ceilings={"reuse": 10})
    for number in (1, 2, 3):
        response = sandbox.invoke("again")
        assert response.output == {"count": number, "left": []}
        assert [entry.message for entry in response.logs] == [f"request {number}"]
        assert response.stats.cpu_ms < 5000
        assert response.stats.cold == (number == 1)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ("while True: pass", "TIMEOUT"),
        ("import os; os._exit(3)", "FUNCTION_CRASHED"),
        ("os.write(3, b'{\"type\": \"response\", \"request_id\": \"other\", \"success\": true}\\n')", None),
        ("[os.fork() or time.sleep(9) for _ in range(9)]", "FUNCTION_ERROR"),
    ],
    ids=["timeout", "crash", "another's id", "processes"],
)  # fmt: skip
def test_with_reuse_anything_out_of_the_ordinary_retires_the_container(
    open_sandbox: Callable[..., Sandbox], write: Write, trouble: str, code: str | None
) -> None:
    write(
        "odd/index.py",
        "import os, time\ncount = 0\n\ndef handler(ctx):\n    global count\n    count += 1\n"
        f"    if ctx.input.get('odd'):\n        {trouble}\n    return count\n",
    )
    write("odd/function.yaml", "reuse: 100\ntimeout: 3s\npids: 8\n")
    sandbox = open_sandbox(ceilings={"reuse": 100})
    assert [sandbox.invoke("odd").output for _ in range(2)] == [1, 2]
    response = sandbox.invoke("odd", {"odd": True})
    assert (response.error.code if response.error else None) == code
    assert sandbox.invoke("odd").output == 1


def test_with_reuse_a_late_cancellation_does_not_affect_the_next_invocation(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    """What it kills is the container, which must not be somebody else's by then."""
    write(
        "late/index.py",
        "import time\ndef handler(ctx):\n    ctx.log.info('soon')\n"
        "    time.sleep(ctx.input.get('seconds', 0))\n    return 1\n",
    )
    write("late/function.yaml", "reuse: 100\n")
    sandbox = open_sandbox(ceilings={"reuse": 100})
    for _ in range(5):
        cancellation = Cancellation()
        cancelled = sandbox.invoke(
            "late", on_log=lambda _, it=cancellation: it.cancel(), cancellation=cancellation
        )
        assert cancelled.success or cancelled.error.code == "CANCELLED"
        assert sandbox.invoke("late", {"seconds": 0.3}).output == 1


def test_a_manifest_alone_gets_no_reuse(open_sandbox: Callable[..., Sandbox], write: Write) -> None:
    write("traces/index.py", TRACES)
    write("traces/function.yaml", "reuse: 100\n")
    sandbox = open_sandbox()
    assert [sandbox.invoke("traces").output["count"] for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('{\"success\": true}')\n", "ended before it was asked (exit code 0)"),
        (
            'import time\nprint(\'{"success": true, "output": 1}\', flush=True)\ntime.sleep(30)\n',
            "answered before it was asked",
        ),
    ],
    ids=["ends", "answers"],
)
def test_a_script_that_does_not_wait_for_its_request_is_always_cold_and_show_says_why(
    open_sandbox: Callable[..., Sandbox], write: Write, source: str, reason: str
) -> None:
    write("hasty/index.py", source)
    write("hasty/function.yaml", "warm: 1\ninterface: stdio\n")
    sandbox = open_sandbox()
    assert sandbox.invoke("hasty").success
    wait_until(lambda: sandbox.pool_states()["hasty"]["cold_only"])
    assert reason in str(sandbox.pool_states()["hasty"]["cold_only"])
    response = sandbox.invoke("hasty")
    assert response.success
    assert response.stats.cold
    # Another process knows it from the store.
    other = open_sandbox()
    assert other.invoke("hasty").success
    assert reason in str(other.pool_states()["hasty"]["cold_only"])


def test_a_warm_container_that_dies_is_replaced(
    open_sandbox: Callable[..., Sandbox], write: Write, engine: DockerEngine
) -> None:
    write("mortal/index.py", "def handler(ctx): return 1\n")
    write("mortal/function.yaml", "warm: 1\n")
    sandbox = open_sandbox()
    sandbox.invoke("mortal")
    wait_until(lambda: ready(sandbox, "mortal"))
    (first,) = [item.id for item in engine.containers({LABEL_FUNCTION: "mortal"}) if item.state == "running"]  # fmt: skip
    engine.remove(first)
    wait_until(
        lambda: (
            ready(sandbox, "mortal")
            and first not in {item.id for item in engine.containers({LABEL_FUNCTION: "mortal"})}
        )
    )
    response = sandbox.invoke("mortal")
    assert response.output == 1
    assert not response.stats.cold


def test_a_handler_that_fails_at_boot_is_not_tried_without_end(
    open_sandbox: Callable[..., Sandbox], write: Write, engine: DockerEngine
) -> None:
    write("broken/index.py", "raise ValueError('no database')\n\ndef handler(ctx): return 1\n")
    write("broken/function.yaml", "warm: 2\n")
    sandbox = open_sandbox()
    assert sandbox.invoke("broken").error.code == "INIT_FAILED"
    wait_until(lambda: sandbox.pool_states()["broken"]["boot_failure"])
    assert "no database" in str(sandbox.pool_states()["broken"]["boot_failure"])
    response = sandbox.invoke("broken")
    assert response.error.code == "INIT_FAILED"
    assert "no database" in response.error.message
    assert ready(sandbox, "broken") == 0


def test_a_burst_beyond_the_queue_is_refused_at_once_and_the_rest_is_served(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    write("nap/index.py", "import time\n\ndef handler(ctx):\n    time.sleep(1)\n    return 1\n")
    sandbox = open_sandbox(concurrency=2, queue={"length": 3, "per_function": 2})
    sandbox.invoke("nap")
    outcomes: list[object] = []

    def call() -> None:
        try:
            outcomes.append(sandbox.invoke("nap").output)
        except OverloadedError as error:
            outcomes.append(error)

    with ThreadPoolExecutor(8) as threads:
        for _ in range(8):
            threads.submit(call)
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    assert len(refused) == 4
    assert all(error.retry_after >= 1 for error in refused)
    assert outcomes.count(1) == 4
    assert isinstance(outcomes[0], OverloadedError)  # nobody waited to be refused


def test_one_hot_function_leaves_a_place_to_another(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    write("hot/index.py", "import time\n\ndef handler(ctx):\n    time.sleep(0.3)\n    return 1\n")
    write("quiet/index.py", "def handler(ctx): return 1\n")
    sandbox = open_sandbox(concurrency=2, pool={"enabled": False})
    order: list[str] = []

    def call(name: str) -> None:
        assert sandbox.invoke(name).success
        order.append(name)

    with ThreadPoolExecutor(13) as threads:
        running = [threads.submit(call, "hot") for _ in range(12)]
        wait_until(lambda: sandbox.pool_states().get("hot", {}).get("waiting") == 10)
        running.append(threads.submit(call, "quiet"))
    assert all(not item.exception() for item in running)
    assert order.index("quiet") <= 5  # and not behind all that came before it


@pytest.mark.parametrize("moment", ["running", "waiting"])
def test_a_cancelled_invocation_ends_at_once(
    open_sandbox: Callable[..., Sandbox], write: Write, moment: str
) -> None:
    write(
        "long/index.py",
        "import time\n\ndef handler(ctx):\n    ctx.log.info('in')\n    time.sleep(50)\n",
    )
    write("long/function.yaml", "timeout: 50s\n")
    sandbox = open_sandbox(concurrency=1)
    first, started = Cancellation(), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(
            sandbox.invoke, "long", cancellation=first, on_log=lambda _: started.set()
        )
        assert started.wait(PATIENCE)
        if moment == "waiting":
            second = Cancellation()
            waiting = threads.submit(sandbox.invoke, "long", cancellation=second)
            wait_until(lambda: sandbox.pool_states()["long"]["waiting"])
            second.cancel()
            assert waiting.result(PATIENCE).error.code == "CANCELLED"
        first.cancel()
        assert running.result(PATIENCE).error.code == "CANCELLED"
    assert sandbox.pool_states()["long"]["busy"] == 0


def test_a_new_version_takes_over_only_when_it_boots(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    write("live/index.py", "def handler(ctx): return 1\n")
    write("live/function.yaml", "warm: 1\n")
    sandbox = open_sandbox()
    sandbox.prepare("live")
    first = sandbox.invoke("live")
    assert (first.output, first.stats.cold) == (1, False)

    write("live/index.py", "raise ValueError('half done')\n\ndef handler(ctx): return 2\n")
    sandbox.reload()
    assert sandbox.invoke("live").output == 1
    with pytest.raises(BootFailedError, match="half done"):
        sandbox.prepare("live")
    assert sandbox.invoke("live").output == 1

    write("live/index.py", "def handler(ctx): return 2\n")
    sandbox.reload()
    sandbox.prepare("live")
    response = sandbox.invoke("live")
    assert (response.output, response.stats.cold) == (2, False)
    assert response.stats.version != first.stats.version


def test_a_new_version_that_cannot_be_built_leaves_the_old_one_serving(
    open_sandbox: Callable[..., Sandbox], write: Write
) -> None:
    source = 'package function\n\nimport "alyx"\n\nfunc Handler(ctx *alyx.Context) (any, error) { return %s, nil }\n'
    write("built/main.go", source % "1")
    sandbox = open_sandbox()
    assert sandbox.invoke("built").output == 1
    write("built/main.go", source % "nonsense")
    sandbox.reload()
    assert sandbox.invoke("built").output == 1
    with pytest.raises(BuildFailedError) as caught:
        sandbox.prepare("built")
    assert "nonsense" in caught.value.log


def test_containers_of_a_removed_function_are_removed(
    open_sandbox: Callable[..., Sandbox], write: Write, functions: Path, engine: DockerEngine
) -> None:
    write("gone/index.py", "def handler(ctx): return 1\n")
    write("gone/function.yaml", "warm: 2\n")
    sandbox = open_sandbox()
    sandbox.invoke("gone")
    wait_until(lambda: ready(sandbox, "gone") == 2)
    for path in (functions / "gone").iterdir():
        path.unlink()
    sandbox.reload()
    wait_until(lambda: not engine.containers({LABEL_FUNCTION: "gone"}))


def test_closing_removes_what_was_kept(
    functions: Path, write: Write, engine: DockerEngine, store: Path
) -> None:
    write("kept/index.py", "def handler(ctx): return 1\n")
    write("kept/function.yaml", "warm: 2\n")
    with Sandbox(functions, settings=Settings(store=store), engine=engine) as sandbox:
        sandbox.invoke("kept")
        wait_until(lambda: ready(sandbox, "kept") == 2)
    assert engine.containers({LABEL_FUNCTION: "kept"}) == []
