"""Every way an invocation can end, seen from the caller's side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, Settings
from sandbox.containers.reaper import reap
from sandbox.errors import (
    InvalidRequestError,
    OverloadedError,
    PolicyRefusedError,
    RuntimeNotAvailableError,
)
from sandbox.store.owners import LABEL_FUNCTION, LABEL_OWNER, LABEL_STORE
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.models import FunctionResponse

    Invoke = Callable[..., FunctionResponse]
    Write = Callable[..., None]

ECHO = """
import json, sys
request = json.load(sys.stdin)
print(json.dumps({"request_id": request["request_id"], "success": True, "output": request["input"]}))
"""


def test_a_stdio_function_answers(write: Write, invoke: Invoke) -> None:
    write("echo/index.py", ECHO)
    response = invoke("echo", {"name": "Wörld", "big": 2**80})
    assert response.success, response.error
    assert response.output == {"name": "Wörld", "big": 2**80}
    stats = response.stats
    assert stats.cold
    assert stats.boot_ms > 0
    assert stats.run_ms > 0
    assert stats.cpu_ms > 0
    assert 1 << 20 < stats.peak_memory_bytes < 128 << 20
    assert stats.runtime_class in ("crun", "runc")
    assert len(stats.version) >= 32


def test_a_handler_function_answers(write: Write, invoke: Invoke) -> None:
    write(
        "hi/index.py", "def handler(ctx):\n    print('{}')\n    return {'hi': ctx.input['name']}\n"
    )
    response = invoke("hi", {"name": "World"})
    assert response.success, response.error
    assert response.output == {"hi": "World"}
    assert [entry.message for entry in response.logs] == ["{}"]
    assert response.stats.cpu_ms > 0
    assert response.stats.peak_memory_bytes > 1 << 20


def test_a_function_that_does_not_end_is_killed_at_its_deadline(
    write: Write, invoke: Invoke, engine: DockerEngine, store: Path
) -> None:
    write(
        "stuck/index.py",
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('so far', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n",
    )
    write("stuck/function.yaml", "timeout: 1s\n")
    began = time.monotonic()
    response = invoke("stuck")
    assert time.monotonic() - began < 5
    assert response.error.code == "TIMEOUT"
    assert response.error.details["limit"] == 1
    assert response.error.details["setting"] == "timeout"
    assert 1 <= response.error.details["observed"] < 3
    assert [entry.message for entry in response.logs] == ["so far"]
    store_id = (store / "id").read_text()
    assert engine.containers({LABEL_STORE: store_id, LABEL_FUNCTION: "stuck"}) == []


def test_a_response_is_not_held_back_by_what_comes_after_it(write: Write, invoke: Invoke) -> None:
    write("hang/index.py", ECHO + "\nsys.stdout.flush()\nimport time\ntime.sleep(60)\n")
    response = invoke("hang", {"n": 1})
    assert response.output == {"n": 1}
    assert response.stats.run_ms < 30_000


def test_a_json_line_that_may_be_a_log_is_no_response_before_the_end(
    write: Write, invoke: Invoke
) -> None:
    write(
        "slow/index.py",
        "import json, sys, time\n"
        "sys.stdin.read()\n"
        "print(json.dumps({'success': True, 'step': 1}), flush=True)\n"
        "time.sleep(0.5)\n"
        "print(json.dumps({'success': True, 'output': 2}))\n",
    )
    response = invoke("slow")
    assert response.output == 2
    assert [entry.message for entry in response.logs] == ['{"success": true, "step": 1}']


def test_more_memory_than_the_limit_is_out_of_memory(write: Write, invoke: Invoke) -> None:
    write("hog/index.py", "import sys\nsys.stdin.read()\nx = bytearray(512 << 20)\n")
    write("hog/function.yaml", "memory: 64mb\n")
    error = invoke("hog").error
    assert error.code == "OUT_OF_MEMORY"
    assert error.details["limit"] == 64 << 20
    assert error.details["setting"] == "memory"
    assert error.details["observed"] > 32 << 20


def test_a_hog_in_a_child_that_takes_the_function_down_is_out_of_memory(
    write: Write, invoke: Invoke
) -> None:
    write(
        "parent/index.py",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = bytearray(512 << 20)'], check=True)\n",
    )
    write("parent/function.yaml", "memory: 64mb\n")
    assert invoke("parent").error.code == "OUT_OF_MEMORY"


def test_a_hog_in_a_child_that_the_function_survives_is_listed(
    write: Write, invoke: Invoke
) -> None:
    write(
        "survivor/index.py",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = bytearray(512 << 20)'])\n" + ECHO,
    )
    write("survivor/function.yaml", "memory: 64mb\n")
    response = invoke("survivor", {"a": 1})
    assert response.success
    assert [hit.setting for hit in response.stats.limits_hit] == ["memory"]


@pytest.mark.parametrize(
    ("code", "exit_code", "name"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, "SIGKILL"),
        ("import os; os.abort()", None, "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", None, "SIGSEGV"),
        ("raise SystemExit(7)", 7, None),
        ("raise SystemExit(137)", 137, None),
    ],
)
def test_a_crash_names_its_exit_code_or_its_signal(
    code: str, exit_code: int | None, name: str | None, write: Write, invoke: Invoke
) -> None:
    write("crash/index.py", code)
    error = invoke("crash").error
    assert error.code == "FUNCTION_CRASHED"
    assert (error.details["exit_code"], error.details["signal"]) == (exit_code, name)


def test_a_stack_trace_of_a_crash_is_in_the_logs(write: Write, invoke: Invoke) -> None:
    write("crash/index.py", "1 / 0")
    response = invoke("crash")
    assert response.error.code == "FUNCTION_CRASHED"
    assert any("ZeroDivisionError" in entry.message for entry in response.logs)


def test_output_over_the_cap_kills_the_function(write: Write, invoke: Invoke, store: Path) -> None:
    write("flood/index.py", "while True: print('x' * 10_000)")
    limits = Settings.model_validate({"store": store, "limits": {"output": "1mb"}})
    error = invoke("flood", limits=limits).error
    assert error.code == "OUTPUT_TOO_LARGE"
    assert error.details["limit"] == 1 << 20
    assert error.details["setting"] == "limits.output"
    assert error.details["observed"] > 1 << 20


def test_logs_over_the_cap_kill_the_function(write: Write, invoke: Invoke, store: Path) -> None:
    write("chatty/index.py", "import sys\nwhile True: print('x' * 10_000, file=sys.stderr)")
    limits = Settings.model_validate({"store": store, "limits": {"logs": "1mb"}})
    response = invoke("chatty", limits=limits)
    assert response.error.code == "OUTPUT_TOO_LARGE"
    assert response.error.details["setting"] == "limits.logs"


def test_what_is_no_response_is_shown(write: Write, invoke: Invoke) -> None:
    write("wrong/index.py", "import sys\nprint('hello')\nprint('oops', file=sys.stderr)")
    error = invoke("wrong").error
    assert error.code == "INVALID_RESPONSE"
    assert error.details["stdout"] == "hello\n"
    assert "oops" in error.details["stderr"]


def test_a_handler_that_cannot_be_imported_is_init_failed(write: Write, invoke: Invoke) -> None:
    write("broken/index.py", "import nothing_of_that_name\ndef handler(ctx): pass\n")
    response = invoke("broken")
    assert response.error.code == "INIT_FAILED"
    assert "nothing_of_that_name" in response.error.message
    assert any("Traceback" in entry.message for entry in response.logs)


def test_a_handler_that_boots_too_long_is_init_failed(
    write: Write, invoke: Invoke, store: Path
) -> None:
    write("slow/index.py", "import time\ntime.sleep(60)\ndef handler(ctx): pass\n")
    limits = Settings.model_validate({"store": store, "limits": {"boot": "1s"}})
    error = invoke("slow", limits=limits).error
    assert error.code == "INIT_FAILED"
    assert error.details["setting"] == "limits.boot"


def test_a_program_whose_loader_is_missing_is_init_failed(write: Write, invoke: Invoke) -> None:
    write("data/run", "#!/no/such/interpreter\n", mode=0o755)
    write("data/function.yaml", "runtime: binary\nentrypoint: run\n")
    error = invoke("data").error
    assert error.code == "INIT_FAILED"
    assert error.details["errno"] == "ENOENT"


def test_an_orphan_that_holds_the_pipe_does_not_hold_the_response(
    write: Write, invoke: Invoke
) -> None:
    write("orphan/index.py", "import subprocess\nsubprocess.Popen(['sleep', '60'])\n" + ECHO)
    began = time.monotonic()
    assert invoke("orphan", {"a": 1}).success
    assert time.monotonic() - began < 10


def test_a_big_input_and_a_function_that_writes_before_it_reads_do_not_block(
    write: Write, invoke: Invoke
) -> None:
    write("late/index.py", "print('x' * 300_000, flush=True)\n" + ECHO)
    response = invoke("late", {"data": "y" * 3_000_000})
    assert response.success, response.error
    assert len(response.output["data"]) == 3_000_000


def test_a_function_that_never_reads_its_input_still_answers(write: Write, invoke: Invoke) -> None:
    write("deaf/index.py", """print('{"success": true, "output": 1}')""")
    assert invoke("deaf", {"data": "y" * 3_000_000}).output == 1


def test_too_large_a_request_is_refused_before_anything_starts(
    write: Write, invoke: Invoke
) -> None:
    write("echo/index.py", ECHO)
    with pytest.raises(InvalidRequestError):
        invoke("echo", {"data": "y" * 9_000_000})


def test_nothing_carries_over_from_one_invocation_to_the_next(write: Write, invoke: Invoke) -> None:
    write(
        "mark/index.py",
        "import os\nseen = os.path.exists('/tmp/mark')\nopen('/tmp/mark', 'w').close()\n"
        'print(\'{"success": true, "output": %s}\' % str(seen).lower())\n',
    )
    assert [invoke("mark").output for _ in range(2)] == [False, False]


def test_an_edit_is_a_new_version(write: Write, invoke: Invoke) -> None:
    write("v/index.py", "def handler(ctx): return 1\n")
    first = invoke("v")
    write("v/index.py", "def handler(ctx): return 2\n")
    second = invoke("v")
    assert (first.output, second.output) == (1, 2)
    assert first.stats.version != second.stats.version


def test_secrets_reach_the_function_only_through_its_request(
    write: Write, invoke: Invoke, store: Path, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text("API_KEY: hunter2-canary\n")
    write(
        "s/index.py",
        "import os, pathlib\n"
        "def handler(ctx):\n"
        "    environ = pathlib.Path('/proc/self/environ').read_text()\n"
        "    return [ctx.env['KEY'], 'canary' in environ]\n",
    )
    write("s/function.yaml", "env:\n  KEY: ${API_KEY}\n")
    limits = Settings(store=store, secrets_file=secrets)
    assert invoke("s", limits=limits).output == ["hunter2-canary", False]
    with pytest.raises(PolicyRefusedError, match="API_KEY") as refused:
        invoke("s")
    assert "function.yaml" in str(refused.value)


def test_a_missing_image_says_which_command_builds_it(
    write: Write, invoke: Invoke, store: Path
) -> None:
    write("echo/index.py", ECHO)
    limits = Settings.model_validate(
        {"store": store, "images": {"override": {"python": "alyx-sandbox/no-such-image"}}}
    )
    with pytest.raises(RuntimeNotAvailableError, match="no-such-image"):
        invoke("echo", limits=limits)


def test_a_place_that_never_comes_free_is_overloaded(
    functions: Path, write: Write, engine: DockerEngine, store: Path
) -> None:
    write("nap/index.py", "import time\ntime.sleep(4)\n")
    settings = Settings.model_validate({"store": store, "concurrency": 1})
    with Sandbox(functions, settings=settings, engine=engine) as sandbox:
        first = threading.Thread(target=sandbox.invoke, args=("nap",))
        first.start()
        try:
            wait_until(lambda: engine.containers({LABEL_FUNCTION: "nap"}))
            with pytest.raises(OverloadedError) as refused:
                sandbox.invoke("nap", timeout=0.2)
            assert refused.value.retry_after > 0
        finally:
            first.join()


def test_many_at_once_lose_nothing(
    functions: Path, write: Write, engine: DockerEngine, settings: Settings
) -> None:
    write("echo/index.py", ECHO)
    outputs: dict[int, object] = {}
    with Sandbox(functions, settings=settings, engine=engine) as sandbox:

        def call(number: int) -> None:
            outputs[number] = sandbox.invoke("echo", {"n": number}).output

        threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outputs == {number: {"n": number} for number in range(20)}


CHILD = """
import sys
from sandbox import Sandbox, Settings
with Sandbox(sys.argv[1], settings=Settings(store=sys.argv[2]), warm=False) as sandbox:
    sandbox.invoke("nap")
"""


def start_child(functions: Path, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(functions), str(store)], stderr=subprocess.PIPE
    )


def test_ctrl_c_removes_the_container(
    functions: Path, write: Write, engine: DockerEngine, store: Path
) -> None:
    write("nap/index.py", "import time\ntime.sleep(60)\n")
    child = start_child(functions, store)
    label = {LABEL_STORE: (store / "id").read_text(), LABEL_FUNCTION: "nap"}
    wait_until(lambda: engine.containers(label))
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert engine.containers(label) == []


def test_the_reaper_clears_what_a_killed_process_left_and_nothing_else(
    functions: Path, write: Write, engine: DockerEngine, store: Path
) -> None:
    write("nap/index.py", "import time\ntime.sleep(60)\n")
    killed, alive = start_child(functions, store), start_child(functions, store)
    label = {LABEL_STORE: (store / "id").read_text(), LABEL_FUNCTION: "nap"}
    try:
        wait_until(lambda: [item.state for item in engine.containers(label)] == ["running"] * 2)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=20)
        assert reap(engine, store) == 1
        left = engine.containers(label)
        assert len(left) == 1
        assert left[0].labels[LABEL_OWNER] in os.listdir(store / "owners")
        assert left[0].state == "running"
    finally:
        alive.send_signal(signal.SIGINT)
        alive.communicate(timeout=20)
    assert engine.containers(label) == []


def test_another_store_s_containers_are_not_reaped(
    functions: Path, write: Write, engine: DockerEngine, store: Path, tmp_path: Path
) -> None:
    write("nap/index.py", "import time\ntime.sleep(60)\n")
    child = start_child(functions, store)
    label = {LABEL_STORE: (store / "id").read_text(), LABEL_FUNCTION: "nap"}
    try:
        wait_until(lambda: engine.containers(label))
        assert reap(engine, tmp_path / "another-store") == 0
        assert len(engine.containers(label)) == 1
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=20)


def test_the_response_document_has_the_contract_s_shape(write: Write, invoke: Invoke) -> None:
    write("echo/index.py", ECHO)
    document = json.loads(invoke("echo", {"a": 1}, request_id="req_1").to_json())
    assert document["request_id"] == "req_1"
    assert document["success"] is True
    assert document["output"] == {"a": 1}
    assert {"logs", "duration_ms", "stats"} <= document.keys()
    assert {
        "cold", "queue_ms", "boot_ms", "run_ms", "cpu_ms", "peak_memory_bytes", "runtime_class",
        "version",
    } <= document["stats"].keys()  # fmt: skip
