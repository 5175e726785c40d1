"""What a function can do to the kernel and to other processes, seen from inside and from the host.

Under gVisor the calls end in gVisor's own kernel, which has no seccomp filter on top: what is
answered there is no matter of the host's. What the host sees of gVisor itself is asserted instead.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.functions.discovery import function_from_path
from sandbox.policy.container_spec import FIRST_UID, UID_COUNT
from tests.docker.security.conftest import (
    UNDEFENDED,
    cgroup_directory,
    control,
    host_status,
    inspect,
    python_control,
)
from tests.docker.security.probes import KERNEL

if TYPE_CHECKING:
    from sandbox.models import LogEntry
    from tests.docker.security.conftest import Arena

REFUSED = {"EPERM", "EACCES"}
ABSENT = {"ENOENT", "ENOTDIR", "ENOSYS", "EAFNOSUPPORT"}
# Never reached by anybody: the kernel that runs these tests was built without them.
PROTECTED_WRITES = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/vm/panic_on_oom", "/proc/1/mem",
    "/proc/sys/net/ipv4/ip_forward", "/proc/irq/default_smp_affinity", "/proc/1/oom_score_adj",
)  # fmt: skip
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.fixture(scope="module")
def undefended() -> dict[str, Any]:
    """The control: the same probe in a container of the same image with the defences off."""
    return python_control(KERNEL, *UNDEFENDED)


@pytest.fixture
def seen(arena: Arena) -> dict[str, Any]:
    """The same from inside a function's container, under each runtime class."""
    return arena.observe(KERNEL)


def test_no_capability_no_privilege_to_gain_and_a_filter(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    status = seen["status"]
    uids = {int(uid) for uid in status["Uid"].split()}
    assert len(uids) == 1
    assert FIRST_UID <= uids.pop() < FIRST_UID + UID_COUNT
    assert status["Gid"] == status["Uid"]
    assert status["Groups"] in ("", status["Gid"].split()[0])
    held = {name: status[name] for name in CAPABILITY_SETS if status[name] is not None}
    assert {int(value, 16) for value in held.values()} == {0}
    if seen["runtime_class"] != "gvisor":
        assert held.keys() == set(CAPABILITY_SETS)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
    assert int(undefended["status"]["CapEff"], 16) != 0
    assert undefended["status"]["Seccomp"] == undefended["status"]["NoNewPrivs"] == "0"


def test_every_dangerous_system_call_is_refused(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    calls = dict(seen["calls"])
    harmless = "landlock_and_others_still_answer"
    assert calls.pop(harmless) == "ok"
    # The control: with the defences off each call reaches the kernel, and is not refused.
    reached = {name for name, answer in undefended["calls"].items() if answer not in REFUSED}
    assert reached == undefended["calls"].keys()
    if seen["runtime_class"] == "gvisor":
        # These ask for the host's hardware or time, and gVisor has none to give.
        hardware = ("init_module", "kexec_load", "reboot", "settimeofday", "swapon", "iopl", "acct")
        assert {calls[name] for name in hardware} <= REFUSED | ABSENT
        return
    # So that a C library falls back to clone, whose flags can be looked at.
    assert calls.pop("clone3") == "ENOSYS"
    assert set(calls.values()) == {"EPERM"}, calls


def test_a_second_system_call_table_is_out_of_reach(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    assert seen["call_64_bit"] == "ok"
    assert undefended["call_32_bit"] == "ok"
    if seen["runtime_class"] != "gvisor":
        assert seen["call_32_bit"] == seen["call_x32"] == "killed by SIGSYS"
    assert seen["call_32_bit"] != "ok"
    assert seen["call_x32"] != "ok"


def test_only_ip_unix_and_netlink_sockets(seen: dict[str, Any], undefended: dict[str, Any]) -> None:
    sockets = seen["sockets"]
    assert sockets["tcp"] == sockets["unix"] == "ok"
    for name in ("packet", "raw", "raw6", "alg", "vsock"):
        assert sockets[name] in REFUSED | ABSENT, name
    assert seen["families"] == [1, 2, 10, 16]
    for name in ("packet", "raw", "raw6"):
        assert undefended["sockets"][name] == "ok"
    assert set(undefended["families"]) > set(seen["families"])


def test_nothing_of_the_kernel_can_be_written(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    allowed = {path for path, answer in seen["write"].items() if answer == "ok"}
    assert allowed == set()
    for path in PROTECTED_WRITES:
        assert undefended["write"][path] == "ok", path


def test_what_tells_of_the_host_cannot_be_read(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    read = dict(seen["read"])
    if seen["runtime_class"] == "gvisor":
        # gVisor lets a process look at another of the same user; init has no secret.
        for path in ("/proc/1/environ", "/proc/1/maps"):
            read.pop(path)
    assert {
        path for path, answer in read.items() if isinstance(answer, int) and answer > 0
    } == set()
    for path in (
        "/proc/keys",
        "/proc/timer_list",
        "/proc/interrupts",
        "/proc/kmsg",
        "/proc/slabinfo",
    ):
        assert undefended["read"][path] == 16, path
    for path, entries in seen["list"].items():
        if not path.startswith("/proc/1/"):
            assert entries in ([], *ABSENT, *REFUSED), path
    assert undefended["list"]["/sys/firmware"] != []
    assert seen["kallsyms"] in (False, "ENOENT", "EPERM", "EACCES")
    assert undefended["kallsyms"] is True


def test_init_cannot_be_looked_into(seen: dict[str, Any], undefended: dict[str, Any]) -> None:
    assert seen["init"] == "EACCES"
    assert seen["list"]["/proc/1/root"] == seen["list"]["/proc/1/cwd"] == "EACCES"
    assert seen["read"]["/proc/1/mem"] in ("EACCES", "EPERM", "EIO")
    assert undefended["init"].startswith("/usr/bin/python")
    assert isinstance(undefended["list"]["/proc/1/root"], list)


def test_no_descriptor_is_inherited_but_the_standard_streams(seen: dict[str, Any]) -> None:
    for target in seen["descriptors"].values():
        # A namespace's file, a directory or a cgroup here has been a way out of containers.
        assert target.startswith(("pipe:", "socket:", "host:")), seen["descriptors"]
    assert len(seen["descriptors"]) <= 4  # and the handler protocol's


def test_no_socket_device_or_setuid_file_is_there(seen: dict[str, Any]) -> None:
    assert seen["sockets_in_files"] == []
    assert seen["setuid"] == []
    harmless = {"full", "null", "ptmx", "random", "tty", "urandom", "zero"}
    if seen["runtime_class"] == "gvisor":
        harmless |= {"fuse", "tun"}  # of gVisor's own kernel
    assert {Path(path).name for path in seen["devices"]} <= harmless
    assert "block" not in seen["devices"].values()
    # Init, and the function.
    assert len(seen["processes"]) == 2


WAIT = """
import os, sys, time
def handler(ctx):
    print("here", file=sys.stderr, flush=True)
    time.sleep(2.5)
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")} if os.path.isdir("/proc/self/ns") else {}
"""


def test_the_host_sees_the_same_as_is_promised(arena: Arena) -> None:
    """The effective state: what the kernel says of the process, not what was asked for."""
    facts: dict[str, Any] = {}

    def look(entry: LogEntry) -> None:
        if entry.message != "here":
            return
        container = arena.engine.created[-1]
        state = inspect(container)
        pid = state["State"]["Pid"]
        facts["status"] = host_status(pid)
        facts["namespaces"] = {
            path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/ns").iterdir()
        }
        facts["host"] = {
            path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()
        }
        facts["limits"] = Path(f"/proc/{pid}/limits").read_text()
        facts["environ"] = Path(f"/proc/{pid}/environ").read_bytes().decode()
        facts["config"] = state
        facts["cgroup"] = cgroup_files(pid)

    result = arena.attack(WAIT, on_log=look)
    assert result.output is not None
    status, own = facts["status"], facts["host"]
    config = facts["config"]["HostConfig"]
    # gVisor has process ids and cgroups of its own inside; its own process needs no namespace.
    apart = {"runc": ("pid", "cgroup"), "crun": ("pid", "cgroup"), "gvisor": ("user",)}
    for name in ("ipc", "mnt", "net", "uts", *apart[arena.runtime_class]):
        assert facts["namespaces"][name] != own[name], name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if arena.runtime_class == "gvisor":
        assert set(status["Uid"].split()) == {"65534"}
    else:
        assert all(FIRST_UID <= int(uid) < FIRST_UID + UID_COUNT for uid in status["Uid"].split())
        assert {int(status[name], 16) for name in CAPABILITY_SETS} == {0}
        assert re.search(r"Max core file size +1 +1 ", facts["limits"])
    assert facts["cgroup"]["memory"] == 128 << 20
    assert facts["cgroup"]["swap"] in (0, 128 << 20)  # version 1 counts memory and swap together
    assert facts["cgroup"]["pids"] == 128
    assert facts["cgroup"]["cpu"] == 1.0
    assert config["Privileged"] is False
    assert config["PidMode"] == config["UTSMode"] == config["UsernsMode"] == ""
    assert config["IpcMode"] == "private"
    assert config["Devices"] in (None, [])
    assert config["CapAdd"] in (None, [])
    assert config["Binds"] is None
    assert config["VolumesFrom"] is None
    assert config["LogConfig"]["Type"] == "none"
    assert "docker.sock" not in json.dumps(facts["config"]["Mounts"])


def cgroup_files(pid: int) -> dict[str, float]:
    """The limits in force for a process: bytes, processes, cores."""

    def read(controller: str, v1: str, v2: str) -> str:
        place = cgroup_directory(pid, controller)
        return next(place / name for name in (v1, v2) if (place / name).exists()).read_text()

    if (cgroup_directory(pid, "cpu") / "cpu.max").exists():
        quota, period = read("cpu", "cpu.max", "cpu.max").split()
    else:
        quota = read("cpu", "cpu.cfs_quota_us", "")
        period = read("cpu", "cpu.cfs_period_us", "")
    return {
        "memory": int(read("memory", "memory.limit_in_bytes", "memory.max")),
        "swap": int(read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")),
        "pids": int(read("pids", "pids.max", "pids.max")),
        "cpu": int(quota) / int(period),
    }


def test_two_containers_share_no_namespace_and_no_user(crun: Arena) -> None:
    code = """
import os
def handler(ctx):
    return [os.getuid(), {name: os.readlink(f"/proc/self/ns/{name}") for name in ("ipc", "mnt", "net", "pid", "uts", "cgroup")}]
"""
    # Numbers of namespaces that are gone are given out again: they have to be alive together.
    results: list[Any] = []
    hold = code.replace("    return", "    import time; time.sleep(1.5)\n    return")
    threads = [
        threading.Thread(target=lambda path=path: results.append(run(crun, path)))
        for path in (crun.write(hold), crun.write(hold))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (uid, one), (other_uid, other) = results
    assert uid != other_uid
    assert not set(one.values()) & set(other.values())


def run(arena: Arena, path: Path) -> Any:
    function, _ = function_from_path(path)
    return arena.run(function).output


# Each writes what the kernel says of its process, and which of its own hooks ran before it.
HOOKS = {
    "python": {
        "index.py": """
import builtins, os, sys
def handler(ctx):
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    return {"hooked": hasattr(builtins, "HOOKED"), "caps": status["CapEff"].strip(), "seccomp": status["Seccomp"].strip(), "init": open("/proc/1/comm").read().strip(), "env": sorted(os.environ)}
""",
        "sitecustomize.py": "import builtins\nbuiltins.HOOKED = True\n",
        "usercustomize.py": "import builtins\nbuiltins.HOOKED = True\n",
        "json.py": "raise SystemExit('shadowed')\n",
    },
    "node": {
        "index.mjs": """
import { readFileSync } from "node:fs";
export default function handler(ctx) {
  const status = Object.fromEntries(readFileSync("/proc/self/status", "utf8").split("\\n").map((line) => line.split(":\\t")));
  return { hooked: globalThis.HOOKED === true, caps: status.CapEff, seccomp: status.Seccomp, init: readFileSync("/proc/1/comm", "utf8").trim(), env: Object.keys(process.env).sort() };
}
""",
        "hook.js": "globalThis.HOOKED = true;\n",
        ".env": "NODE_OPTIONS=--require=/function/hook.js\n",
        ".npmrc": "node-options=--require=/function/hook.js\n",
        "package.json": '{"type": "module"}',
    },
    "bun": {
        "index.tsx": """
import { readFileSync } from "node:fs";
export default function handler(ctx: any) {
  const status = Object.fromEntries(readFileSync("/proc/self/status", "utf8").split("\\n").map((line) => line.split(":\\t")));
  return { hooked: (globalThis as any).HOOKED === true, caps: status.CapEff, seccomp: status.Seccomp, init: readFileSync("/proc/1/comm", "utf8").trim(), env: Object.keys(process.env).sort() };
}
""",
        "hook.ts": '(globalThis as any).HOOKED = true;\nconsole.log(\'{"success": true, "output": "forged"}\');\n',
        "bunfig.toml": 'preload = ["./hook.ts"]\n',
        ".env": "BUN_OPTIONS=--preload=/function/hook.ts\n",
    },
    "deno": {
        "main.ts": """
export default function handler(ctx: any) {
  const text = (path: string) => Deno.readTextFileSync(path);
  const status = Object.fromEntries(text("/proc/self/status").split("\\n").map((line) => line.split(":\\t")));
  return { hooked: (globalThis as any).HOOKED === true, caps: status.CapEff, seccomp: status.Seccomp, init: text("/proc/1/comm").trim(), env: Object.keys(Deno.env.toObject()).sort() };
}
""",
        "deno.json": '{"tasks": {"run": "echo no"}, "compilerOptions": {}}',
        ".env": "DENO_FLAGS=--v8-flags=--no-opt\n",
    },
}
ENV = 'env:\n  NODE_OPTIONS: "--require=/function/hook.js"\n  BUN_OPTIONS: "--preload=/function/hook.ts"\n  PYTHONSTARTUP: /function/sitecustomize.py\n'


@pytest.mark.parametrize("runtime", HOOKS)
def test_hooks_in_the_function_s_folder_win_nothing(crun: Arena, runtime: str) -> None:
    """A folder is the author's; what it makes an interpreter do happens inside the container."""
    seen = crun.attack(HOOKS[runtime], manifest=ENV).output
    # Bun reads bunfig.toml, as its users expect: then the hook is a part of the function.
    assert seen["hooked"] is (runtime == "bun")
    assert int(seen["caps"], 16) == 0
    assert seen["seccomp"].strip() == "2"
    assert seen["init"] == "init"
    # What a manifest puts into `env` goes into the request, not to the interpreter.
    assert not {"NODE_OPTIONS", "PYTHONSTARTUP"} & set(seen["env"])


def test_a_manifest_s_env_would_steer_an_interpreter_if_it_reached_it(crun: Arena) -> None:
    """The control of the test above: the same variable, in the environment, loads the hook."""
    path = crun.write(HOOKS["node"])
    path.chmod(0o755)
    out = control(
        "node", f"--volume={path}:/function:ro", "--user=0:0",
        "--env=NODE_OPTIONS=--import=/function/hook.js",
        command=("node", "--print", "globalThis.HOOKED"),
    )  # fmt: skip
    assert out.strip() == "true"
