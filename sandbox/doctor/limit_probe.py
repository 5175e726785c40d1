"""A function that tries to exceed its limits from inside its container; `limit_checks` invokes it.

It runs alone in the python image, so it can import nothing of the project.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
# The probes take at most this much if no limit stops them.
MOST_MEMORY = 512 * MIB
MOST_PROCESSES = 512
MOST_FILE = 128 * MIB


def handler(ctx: Any) -> dict[str, Any]:
    """Run the probe that the input names."""
    return PROBES[ctx.input["probe"]]()


def posture() -> dict[str, Any]:
    """The identity and the rights of this process, according to the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "capabilities": {name: int(status[name], 16) for name in status if name.startswith("Cap")},
        "no_new_privs": status.get("NoNewPrivs"),
        "seccomp": status.get("Seccomp"),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "root_read_only": any(mount[4] == "/" and "ro" in mount[5].split(",") for mount in mounts),
        "writable": [path for path in ("/", "/function", "/usr", "/etc") if can_write(path)],
    }


def can_write(directory: str) -> bool:
    """Whether a file can be created there."""
    path = Path(directory, ".probe")
    try:
        path.touch()
        path.unlink()
    except OSError:
        return False
    return True


def memory() -> dict[str, Any]:
    """Take memory until killed; otherwise report how much it got."""
    taken = [bytearray(b"x" * MIB) for _ in range(MOST_MEMORY // MIB)]
    return {"bytes": sum(map(len, taken))}


def processes() -> dict[str, Any]:
    """Start processes until refused; report how many it started."""
    children: list[int] = []
    refused = False
    try:
        while len(children) < MOST_PROCESSES:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError:
        refused = True
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return {"started": len(children), "refused": refused}


def files() -> dict[str, Any]:
    """Fill the temporary directory until refused; report how many bytes it wrote."""
    written = 0
    refused = False
    path = Path(tempfile.gettempdir(), "probe")
    try:
        with path.open("wb", buffering=0) as file:
            while written < MOST_FILE:
                written += file.write(bytes(MIB)) or 0
    except OSError:
        refused = True
    path.unlink()
    return {"bytes": written, "refused": refused}


def cpu() -> dict[str, Any]:
    """Keep one core busy for a while; report its share of the core."""
    wall, used = time.monotonic(), time.process_time()
    while time.monotonic() - wall < 0.6:
        pass
    return {"cores": (time.process_time() - used) / (time.monotonic() - wall)}


def forever() -> dict[str, Any]:
    """Never answer."""
    while True:
        time.sleep(60)


PROBES = {probe.__name__: probe for probe in (posture, memory, processes, files, cpu, forever)}
