"""A function that attacks its container from inside; `sandbox.doctor.attack.battery` invokes it.

It runs alone in the python image, so it can import nothing of the project. It reports the answers
of the kernel, which `sandbox.doctor.attack.judges` judges.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Numbers of x86-64, with arguments that change nothing if the call is allowed.
CALLS = {
    "unshare": (272, 0x10000000),
    "setns": (308, -1, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "ptrace": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "keyctl": (250, 0, -3, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "userfaultfd": (323, 1),
    "init_module": (175, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "open_by_handle_at": (304, -1, 0, 0),
    "syslog": (103, 10, 0, 0),
}
SOCKETS = {
    "raw": (socket.AF_INET, socket.SOCK_RAW, 1),
    "packet": (17, socket.SOCK_RAW, 0),
    "vsock": (40, socket.SOCK_STREAM, 0),
    "alg": (38, socket.SOCK_SEQPACKET, 0),
    "tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
}
READS = (
    "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/1/environ",
    "/proc/1/mem", "/dev/mem", "/dev/kmsg", "/proc/self/status", "/proc/self/environ",
)  # fmt: skip
WRITES = (
    "/x", "/function/x", "/usr/x", "/etc/hosts", "/opt/alyx/init", "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger", "/sys/fs/cgroup/x", "/proc/sys/vm/panic_on_oom", "/tmp/x",  # noqa: S108
)  # fmt: skip
ENGINE_SOCKETS = (
    "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
    "/run/podman/podman.sock", "/run/crio/crio.sock",
)  # fmt: skip


def handler(ctx: Any) -> Any:
    """Run the attack that the input names."""
    return ATTACKS[ctx.input["attack"]](ctx)


def attempt(call: Callable[..., Any], *arguments: Any) -> str:
    """`ok`, or the name of the error."""
    try:
        result = call(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    if hasattr(result, "close"):
        result.close()
    return "ok"


def surface(_: Any) -> dict[str, Any]:
    """What the kernel lets this process do, with harmless controls that it must allow."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: int) -> str:
        ctypes.set_errno(0)
        if libc.syscall(number, *map(ctypes.c_long, arguments)) == -1:
            return errno.errorcode.get(ctypes.get_errno(), "?")
        return "ok"

    # In a child, because the call may change or end the process.
    calls = {name: in_child(call, *arguments) for name, arguments in CALLS.items()}
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "release": os.uname().release,
        "capabilities": {name: int(status[name], 16) for name in status if name.startswith("Cap")},
        "no_new_privs": status.get("NoNewPrivs"),
        "seccomp": status.get("Seccomp"),
        "calls": calls,
        "getpid": in_child(call, 39),
        "sockets": {name: attempt(socket.socket, *how) for name, how in SOCKETS.items()},
        "reads": {path: read(path) for path in READS},
        "writes": {path: attempt(open, path, "wb") for path in WRITES},
        "engine_sockets": [path for path in ENGINE_SOCKETS if Path(path).exists()],
        "devices": sorted(path.name for path in Path("/dev").iterdir()),
        "processes": processes(),
        "run_from_tmp": run_copy("/usr/bin/busybox"),
        "run_from_usr": attempt(subprocess.check_call, ["/usr/bin/busybox", "true"]),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "interfaces": [name for _, name in socket.if_nameindex()],
        "environment": sorted(os.environ),
    }


def processes() -> list[int]:
    """The ids of all visible processes."""
    return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def in_child(call: Callable[..., str], *arguments: int) -> str:
    """What `call` answers in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, call(*arguments).encode())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).decode()
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return answer or f"ended by signal {os.WTERMSIG(status)}"


def read(path: str) -> str:
    """`ok` if there is something to read, `empty`, or the name of the error."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            return "ok" if file.read(16) else "empty"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def run_copy(program: str) -> str:
    """Whether a program that was copied to /tmp runs."""
    copy = "/tmp/true"  # noqa: S108 - the container's own
    shutil.copyfile(program, copy)
    os.chmod(copy, 0o755)  # noqa: S103, PTH101
    return attempt(subprocess.check_call, [copy, "true"])


def connect(ctx: Any) -> dict[str, str]:
    """Connect to each host and port; `ok` if something answers."""
    found = {}
    for host, port in ctx.input["places"]:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                found[f"{host}:{port}"] = "ok" if connection.recv(5) == b"hello" else "silent"
        except OSError as error:
            found[f"{host}:{port}"] = type(error).__name__
    return found


def secrets(ctx: Any) -> dict[str, Any]:
    """Whether this function was given the secret, and where it is visible."""
    value = ctx.env.get("CANARY", "")
    canary = ctx.input["canary"]
    ctx.log.info(f"token {value}")
    print("printed", value, flush=True)
    time.sleep(ctx.input.get("linger", 0))
    seen = [
        str(path)
        for path in Path("/proc").glob("[0-9]*/environ")
        if canary.encode() in read_all(path)
    ]
    return {"given": value == canary, "environments": seen, "variables": dict(os.environ)}


def read_all(path: Path) -> bytes:
    """The content of a file; empty if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def leave(_: Any) -> dict[str, Any]:
    """Report what an earlier invocation left behind, and leave something behind."""
    places = [Path("/tmp/left"), Path("/dev/shm/left")]  # noqa: S108
    found = [str(path) for path in places if path.exists()]
    for path in places:
        path.touch()
    subprocess.Popen(["/usr/bin/busybox", "sleep", "60"])
    return {"found": found, "processes": len(processes()), "uid": os.getuid()}


def output(_: Any) -> str:
    """Answer with far more than the limit."""
    return "x" * (64 << 20)


def logs(_: Any) -> None:
    """Log without end."""
    while True:
        sys.stderr.write("x" * 4096 + "\n")


def hurt(_: Any) -> None:
    """Use as many processors and processes as possible."""
    with contextlib.suppress(OSError):
        while os.fork() >= 0:
            pass
    while True:
        pass


def hello(_: Any) -> str:
    """Do nothing wrong."""
    return "hello"


ATTACKS = {
    attack.__name__: attack
    for attack in (surface, connect, secrets, leave, output, logs, hurt, hello)
}
