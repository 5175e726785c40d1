"""The table "safe by default", as seen from inside a container and from the engine's side."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox
from sandbox.policy.container_spec import FIRST_UID, UID_COUNT
from sandbox.store.owners import LABEL_FUNCTION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox import Settings
    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.models import FunctionResponse

PROBE = """
import ctypes, errno, os, pathlib, socket, resource

libc = ctypes.CDLL(None, use_errno=True)

def attempt(call, *arguments):
    try:
        result = call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return result if isinstance(result, (int, str, bool)) else "ok"

def syscall(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        return errno.errorcode[ctypes.get_errno()]
    return "ok"

def write(path):
    with open(path, "w") as file:
        file.write("x")

def handler(ctx):
    status = dict(
        line.split(":\\t", 1)
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if ":\\t" in line
    )
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privs": status["NoNewPrivs"].strip(),
        "seccomp": status["Seccomp"].strip(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "pid_1": pathlib.Path("/proc/1/comm").read_text().strip(),
        "write": {path: attempt(write, path) for path in ("/x", "/function/x", "/usr/x", "/opt/alyx/x", "/etc/x", "/tmp/x", "/dev/shm/x")},
        "tmp_options": next(line.split()[3] for line in open("/proc/mounts") if line.split()[1] == "/tmp"),
        "tmp_size": os.statvfs("/tmp").f_frsize * os.statvfs("/tmp").f_blocks,
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "sockets": {
            "raw": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
            "packet": attempt(socket.socket, 17, socket.SOCK_RAW, 0),
            "vsock": attempt(socket.socket, 40, socket.SOCK_STREAM, 0),
            "alg": attempt(socket.socket, 38, socket.SOCK_SEQPACKET, 0),
            "tcp": attempt(socket.socket, socket.AF_INET, socket.SOCK_STREAM, 0),
            "unix": attempt(socket.socket, socket.AF_UNIX, socket.SOCK_STREAM, 0),
        },
        "calls": {
            "unshare_user": syscall(272, 0x10000000),
            "mount": syscall(165, b"none", b"/tmp", b"tmpfs", 0, 0),
            "ptrace": syscall(101, 0, 0, 0, 0),
            "bpf": syscall(321, 0, 0, 0),
            "perf_event_open": syscall(298, 0, 0, 0, 0, 0),
            "keyctl": syscall(250, 0, 0, 0, 0, 0),
            "io_uring_setup": syscall(425, 1, 0),
            "userfaultfd": syscall(323, 0),
            "unknown": syscall(9999),
            "getpid": syscall(39),
        },
        "masked": {path: attempt(lambda path: len(open(path, "rb").read(16)), path) for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts")},
        "devices": sorted(os.listdir("/dev")),
        "hostname": socket.gethostname(),
        "environment": sorted(os.environ),
        "docker_socket": os.path.exists("/var/run/docker.sock"),
        "connect": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 1)),
    }
"""


@pytest.fixture(params=["runc", "crun"])
def facts(
    request: pytest.FixtureRequest,
    functions: Path,
    write: Callable[..., None],
    invoke: Callable[..., FunctionResponse],
    settings: Settings,
) -> dict[str, Any]:
    """What the probe sees from inside, under each OCI runtime."""
    write("probe/index.py", PROBE)
    engine = settings.engine.model_copy(update={"runtime_class": request.param})
    response = invoke("probe", limits=settings.model_copy(update={"engine": engine}))
    assert response.success, response.error
    assert response.stats.runtime_class == request.param
    return response.output


def test_from_inside_the_container_is_as_hard_as_promised(facts: dict[str, Any]) -> None:
    assert FIRST_UID <= facts["uid"] < FIRST_UID + UID_COUNT
    assert facts["gid"] == facts["uid"]
    assert facts["groups"] in ([], [facts["gid"]])
    assert facts["capabilities"] == [0, 0, 0, 0, 0]
    assert facts["no_new_privs"] == "1"
    assert facts["seccomp"] == "2"
    assert facts["interfaces"] == ["lo"]
    assert facts["pid_1"] == "init"
    read_only = {path: facts["write"][path] for path in ("/x", "/function/x", "/usr/x", "/opt/alyx/x", "/etc/x")}  # fmt: skip
    assert set(read_only.values()) == {"EROFS"}
    assert facts["write"]["/tmp/x"] == facts["write"]["/dev/shm/x"] == "ok"
    assert {"nosuid", "nodev", "noexec"} <= set(facts["tmp_options"].split(","))
    assert facts["tmp_size"] == 64 << 20
    assert facts["core"] == [1, 1]  # stricter than 0, which a core_pattern that is a pipe ignores
    assert facts["open_files"] == [1024, 1024]
    assert facts["file_size"] == [512 << 20, 512 << 20]
    refused = {"EPERM", "EACCES", "ENOSYS"}
    assert {facts["sockets"][name] for name in ("raw", "packet", "vsock", "alg")} <= refused
    assert facts["sockets"]["tcp"] == facts["sockets"]["unix"] == "ok"  # the control
    calls = facts["calls"]
    assert calls.pop("getpid") == "ok"  # the control
    # Docker 20.10 drops the profile's default answer; runc gives ENOSYS by itself.
    assert calls.pop("unknown") in ("ENOSYS", "EPERM")
    assert set(calls.values()) == {"EPERM"}
    assert set(facts["masked"].values()) <= {0, "EACCES", "ENOENT"}
    assert not {"kmsg", "mem", "fuse", "kvm", "sda"} & set(facts["devices"])
    assert facts["hostname"] == "sandbox"
    assert not facts["docker_socket"]
    assert facts["connect"] == "ENETUNREACH"
    assert not {name for name in facts["environment"] if "KEY" in name or "TOKEN" in name}


def test_from_the_engine_s_side_the_request_is_not_in_the_container_s_configuration(
    functions: Path, write: Callable[..., None], engine: DockerEngine, settings: Settings
) -> None:
    write("nap/index.py", "import sys, time\nsys.stdin.read()\ntime.sleep(3)\n")
    with Sandbox(functions, settings=settings, engine=engine) as sandbox:
        thread = threading.Thread(target=sandbox.invoke, args=("nap", {"secret": "canary-7731"}))
        thread.start()
        deadline = time.monotonic() + 10
        while not (running := engine.containers({LABEL_FUNCTION: "nap"})):
            assert time.monotonic() < deadline
        inspected = subprocess.run(
            ["docker", "inspect", running[0].id], check=True, capture_output=True, text=True
        ).stdout
        thread.join()
    assert "canary-7731" not in inspected
    (state,) = json.loads(inspected)
    host = state["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["Memory"] == host["MemorySwap"] == 128 << 20
    assert host["PidsLimit"] == 128
    assert host["LogConfig"]["Type"] == "none"
    assert {(mount["Destination"], mount["RW"]) for mount in state["Mounts"]} == {
        ("/function", False),
        ("/etc/hosts", False),
        ("/etc/resolv.conf", False),
    }


def test_a_fork_bomb_stops_at_the_limit_and_is_listed(
    write: Callable[..., None], invoke: Callable[..., FunctionResponse]
) -> None:
    write(
        "bomb/index.py",
        "import os, time\n"
        "def handler(ctx):\n"
        "    count = 0\n"
        "    try:\n"
        "        while True:\n"
        "            if os.fork() == 0:\n"
        "                time.sleep(30)\n"
        "                os._exit(0)\n"
        "            count += 1\n"
        "    except BlockingIOError:\n"
        "        return count\n",
    )
    write("bomb/function.yaml", "pids: 32\n")
    response = invoke("bomb")
    assert response.success, response.error
    assert 0 < response.output < 32


def test_a_full_tmp_is_no_space_left_and_nothing_worse(
    write: Callable[..., None], invoke: Callable[..., FunctionResponse]
) -> None:
    write(
        "fill/index.py",
        "import errno\n"
        "def handler(ctx):\n"
        "    try:\n"
        "        with open('/tmp/x', 'wb') as file:\n"
        "            while True: file.write(bytes(1 << 20))\n"
        "    except OSError as error:\n"
        "        return errno.errorcode[error.errno]\n",
    )
    write("fill/function.yaml", "tmp: 16mb\n")
    assert invoke("fill").output == "ENOSPC"
