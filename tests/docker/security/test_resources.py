"""Functions that take all they can get: memory, processors, processes, files, time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.functions.discovery import function_from_path
from sandbox.policy.container_spec import SMALLEST_PIDS_UNDER_GVISOR
from tests.docker.security.conftest import cgroup_directory, inspect, python_control

if TYPE_CHECKING:
    from sandbox.models import LogEntry
    from tests.docker.security.conftest import Arena, Result

HOGS = {
    "in the function": "import sys\nsys.stdin.read()\nx = b'x' * (512 << 20)\n",
    "in a child": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = b\"x\" * (512 << 20)'], check=True)\n"
    ),
    "in a memfd": "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, b'x' * (1 << 20))\n",
    "in /tmp": "f = open('/tmp/x', 'wb', buffering=0)\nwhile True: f.write(b'x' * (1 << 20))\n",
    "in /dev/shm": "f = open('/dev/shm/x', 'wb', buffering=0)\nwhile True: f.write(b'x' * (1 << 20))\n",
    "in a sparse mapping": (
        "import mmap\nm = mmap.mmap(-1, 8 << 30)\nfor at in range(0, 8 << 30, 4096): m[at] = 1\n"
    ),
}
SMALL = "memory: 64mb\ntmp: 512mb\n"


def is_out_of_memory(arena: Arena, result: Result) -> bool:
    """Whether that is what the caller is told.

    Under gVisor the kernel kills all of it, and the engine may hear of the end before it hears of
    the reason: then all that is known is the signal.
    """
    if arena.runtime_class == "gvisor" and result.code == "FUNCTION_CRASHED":
        return result.details["signal"] == "SIGKILL"
    return result.code == "OUT_OF_MEMORY" and result.details["setting"] == "memory"


def test_memory_over_the_limit_is_out_of_memory_wherever_it_was_taken(arena: Arena) -> None:
    for where, code in HOGS.items():
        result = arena.attack(code, manifest=SMALL)
        assert is_out_of_memory(arena, result), (where, result.visible)


def test_the_same_memory_under_a_higher_limit_is_no_failure(crun: Arena) -> None:
    """The control: what was killed above was the memory, and nothing else about the function."""
    code = HOGS["in the function"] + 'print(\'{"success": true, "output": %d}\' % len(x))'
    assert crun.attack(code, manifest="memory: 1gb\n").output == 512 << 20


def test_a_mapping_that_is_never_touched_costs_nothing(arena: Arena) -> None:
    code = "import mmap\ndef handler(ctx):\n    m = mmap.mmap(-1, 8 << 30)\n    m[0] = 1\n    return len(m)\n"
    assert arena.attack(code, manifest="memory: 64mb\n").output == 8 << 30


def test_several_hogs_side_by_side_do_not_hurt_a_neighbour(arena: Arena) -> None:
    results: list[Result] = []
    hog, neighbour = HOGS["in the function"], "import time\ndef handler(ctx):\n    x = b'x' * (16 << 20)\n    time.sleep(1)\n    return len(x)\n"  # fmt: skip

    def run(code: str) -> None:
        results.append(arena.attack(code, manifest="memory: 64mb\n"))

    threads = [threading.Thread(target=run, args=(code,)) for code in (neighbour, hog, hog, hog)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fine = [result for result in results if result.code == "OK"]
    assert [result.output for result in fine] == [16 << 20]
    assert sum(is_out_of_memory(arena, result) for result in results) == 3


SELF = """
import os, resource, signal
def handler(ctx):
    out = {}
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
        out["raised"] = True
    except (ValueError, OSError):
        out["raised"] = False
    child = os.fork()
    if child == 0:
        os.chdir("/tmp")
        os.abort()
    status = os.waitpid(child, 0)[1]
    out["signal"] = os.WTERMSIG(status)
    out["core"] = os.WCOREDUMP(status)
    out["files"] = os.listdir("/tmp")
    return out
"""


def test_a_crash_dumps_no_core(arena: Arena) -> None:
    assert arena.attack(SELF).output == {"raised": False, "signal": 6, "core": False, "files": []}


def test_without_the_limit_a_crash_would_dump_a_core() -> None:
    seen = python_control(SELF, "--ulimit=core=-1", "--network=none", "--tmpfs=/tmp:mode=1777")
    assert seen["core"] is True


def test_a_kill_of_itself_is_a_crash_and_not_out_of_memory(arena: Arena) -> None:
    result = arena.attack("import os\nos.kill(os.getpid(), 9)\n")
    assert result.code == "FUNCTION_CRASHED"
    assert result.details["signal"] == "SIGKILL"


ENDLESS = {
    "a busy loop": "while True: pass\n",
    "a sleep that ignores every signal": (
        "import signal, time\n"
        "for number in range(1, 65):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: time.sleep(60)\n"
    ),
    "a process that stops itself and its children": (
        "import os, signal\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0: os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    ),
}


def test_what_does_not_end_is_ended(arena: Arena) -> None:
    for name, code in ENDLESS.items():
        result = arena.attack(code, manifest="timeout: 1s\n")
        assert result.code == "TIMEOUT", (name, result.visible)
        assert result.details["setting"] == "timeout"


FORKS = """
import os, sys, time
def bomb(work):
    count = 0
    try:
        while count < 2000:
            if os.fork() == 0:
                work()
                os._exit(0)
            count += 1
    except BlockingIOError:
        pass
    return count
def handler(ctx):
    zombies = bomb(lambda: None)
    while True:
        try: os.waitpid(-1, 0)
        except ChildProcessError: break
    forks = bomb(lambda: time.sleep(60))
    print("here", file=sys.stderr, flush=True)
    time.sleep(1)
    return [zombies, forks]
"""
THREADS = """
import sys, threading, time
def handler(ctx):
    count = 0
    try:
        while count < 500:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    print("here", file=sys.stderr, flush=True)
    time.sleep(1)
    return count
"""


def test_bombs_of_processes_and_threads_stop_at_the_limit(arena: Arena) -> None:
    counted: list[tuple[int, int]] = []

    def look(entry: LogEntry) -> None:
        if entry.message == "here":
            pid = inspect(arena.engine.created[-1])["State"]["Pid"]
            place = cgroup_directory(pid, "pids")
            current = int((place / "pids.current").read_text())
            counted.append((current, int((place / "pids.max").read_text())))

    forks = arena.attack(FORKS, manifest="pids: 64\ntimeout: 15s\n", on_log=look)
    threads = arena.attack(THREADS, manifest="pids: 64\n", on_log=look)
    assert counted
    # The host's side: never more than allowed, whatever runs inside.
    allowed = SMALLEST_PIDS_UNDER_GVISOR if arena.runtime_class == "gvisor" else 64
    assert all(current <= most == allowed for current, most in counted)
    if arena.runtime_class == "gvisor":
        # gVisor itself runs under the limit: it has threads of its own for processes, and ends,
        # or stands still, when it gets no more. Threads of a process take none of the host's.
        assert forks.code in ("FUNCTION_CRASHED", "OUT_OF_MEMORY", "TIMEOUT")
        assert threads.output == 500
        return
    zombies, sleepers = forks.output
    assert 0 < zombies < 64
    assert 0 < sleepers < 64
    assert 0 < threads.output < 64
    assert forks.response is not None
    assert "pids" in [hit.setting for hit in forks.response.stats.limits_hit]


LIMITS = """
import errno, os, time
def until_refused(step, most):
    count = 0
    try:
        while count < most:
            step(count)
            count += 1
    except OSError as error:
        return [count, errno.errorcode[error.errno]]
    return [count, "never"]
def fill(path):
    with open(path, "wb", buffering=0) as file:
        result = until_refused(lambda _: file.write(b"x" * (1 << 20)), 96)
    os.unlink(path)
    return result
def deeper(_):
    os.mkdir("d")
    os.chdir("d")
def handler(ctx):
    out = {path: fill(path + "/x") for path in ("/tmp", "/dev/shm")}
    opened = []
    out["open files"] = until_refused(lambda _: opened.append(os.open("/dev/null", 0)), 3000)
    for number in opened: os.close(number)
    big = os.memfd_create("x")
    out["file size"] = until_refused(lambda n: os.ftruncate(big, n << 30), 4)
    out["inodes"] = until_refused(lambda n: os.close(os.open(f"/tmp/{n}", os.O_CREAT | os.O_WRONLY)), 70_000)
    os.chdir("/dev/shm")
    out["levels"] = until_refused(deeper, 5000)
    return out
"""


def test_files_stop_at_their_limits(arena: Arena) -> None:
    seen = arena.attack(LIMITS, manifest="tmp: 32mb\nmemory: 512mb\ntimeout: 120s\n").output
    assert seen["/tmp"] == [32, "ENOSPC"]
    assert seen["/dev/shm"] == [32, "ENOSPC"]
    assert seen["open files"][0] < 1024
    assert seen["open files"][1] == "EMFILE"
    assert seen["file size"] == [1, "EFBIG"]
    # gVisor's tmpfs counts no inodes; what they take counts against memory, as everything does.
    expected = "never" if arena.runtime_class == "gvisor" else "ENOSPC"
    assert seen["inodes"][1] == expected
    assert seen["levels"] == [5000, "never"]  # and they were removed in time: `aftermath`


def test_without_limits_files_would_not_stop() -> None:
    seen = python_control(
        LIMITS, "--ulimit=nofile=4096", "--tmpfs=/tmp:size=1g,mode=1777", "--shm-size=1g",
        "--network=none",
    )  # fmt: skip
    assert {name: result[1] for name, result in seen.items()} == dict.fromkeys(seen, "never")


MILLION = """
import os
count = 0
while count < 1_000_000:
    os.close(os.open(f"/dev/shm/{count}", os.O_CREAT | os.O_WRONLY))
    count += 1
print('{"success": true}')
"""


def test_a_million_files_are_a_matter_of_memory_and_are_removed(arena: Arena) -> None:
    result = arena.attack(MILLION, manifest="timeout: 60s\nmemory: 64mb\n")
    assert is_out_of_memory(arena, result), result.visible


BUSY = """
import os, sys, time
def handler(ctx):
    end = time.monotonic() + 3
    for _ in range(4):
        if os.fork() == 0:
            while time.monotonic() < end: pass
            os._exit(0)
    print("here", file=sys.stderr, flush=True)
    time.sleep(3)
"""


def test_four_busy_processes_get_no_more_than_their_share_of_a_core(arena: Arena) -> None:
    shares: list[float] = []
    throttled: list[int] = []

    def look(entry: LogEntry) -> None:
        if entry.message != "here":
            return
        pid = inspect(arena.engine.created[-1])["State"]["Pid"]
        began, used = time.monotonic(), cpu_seconds(pid)
        time.sleep(1.5)  # how much is used in a time can only be seen by letting it pass
        shares.append((cpu_seconds(pid) - used) / (time.monotonic() - began))
        stat = (cgroup_directory(pid, "cpu") / "cpu.stat").read_text().split()
        throttled.append(int(stat[stat.index("nr_throttled") + 1]))

    assert arena.attack(BUSY, manifest="cpu: 0.25\n", on_log=look).code == "OK"
    # Dealt out by tenths of a second.
    assert shares[0] < 0.25 + 0.2
    assert throttled[0] > 0  # the control: it wanted more


def cpu_seconds(pid: int) -> float:
    place = cgroup_directory(pid, "cpuacct")
    if (place / "cpuacct.usage").exists():
        return int((place / "cpuacct.usage").read_text()) / 1e9
    stat = (place / "cpu.stat").read_text().split()
    return int(stat[stat.index("usage_usec") + 1]) / 1e6


def test_the_store_holds_nothing_of_an_invocation(crun: Arena) -> None:
    """Only bundles, which are deployed: nothing grows with each invocation."""

    def held() -> list[str]:
        store = crun.settings.store
        assert store is not None
        return sorted(str(path) for path in Path(store).rglob("*") if "bundles" not in path.parts)

    path: Any = crun.write("def handler(ctx):\n    open('/tmp/x', 'w').write('x')\n")
    function, _ = function_from_path(path)
    crun.run(function)
    before = held()
    for _ in range(3):
        assert crun.run(function).code == "OK"
    assert held() == before
