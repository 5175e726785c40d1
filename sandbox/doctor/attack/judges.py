"""Compares the reports of the probe with the promises; pure.

A promise holds only if the probe was refused, and a harmless control beside it worked: a probe that
could not have succeeded proves nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from sandbox.policy.container_spec import FIRST_UID, UID_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED: Final = {"EPERM", "EACCES", "ENOSYS"}
ABSENT: Final = {"ENOENT", "ENODEV", "ENXIO", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT"}
_USUAL_DEVICES: Final = {
    "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
    "stdout", "tty", "urandom", "zero", "console",
}  # fmt: skip
# gVisor's own, which lead to its kernel.
_GVISOR_DEVICES: Final = {"fuse", "net"}
_READABLE: Final = {"/proc/self/status", "/proc/self/environ"}
# gVisor shows it to the same user. There is no secret in it: init wipes its own.
_GVISOR_READABLE: Final = {"/proc/1/environ"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Whether a promise held, and what was seen. If it could not be checked, it did not hold."""

    group: str
    promise: str
    held: bool
    seen: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge_surface(seen: dict[str, Any], *, gvisor: bool, host_release: str) -> Iterator[Finding]:
    """Findings from the report of the attack `surface`."""

    def found(group: str, promise: str, bad: list[str], *, control: bool, good: str) -> Finding:
        text = ", ".join(bad) if bad else good
        if not control:
            text = "not checked: the control failed"
        return Finding(group=group, promise=promise, held=control and not bad, seen=text)

    escape, files = "escape surface", "file system"
    extra = [str(group) for group in seen["groups"] if group != seen["gid"]]
    own = min(seen["uid"], seen["gid"]) >= FIRST_UID and max(seen["uid"], seen["gid"]) < (
        FIRST_UID + UID_COUNT
    )
    bad = ([] if own else [f"uid {seen['uid']}, gid {seen['gid']}"]) + extra
    yield found(escape, "a user of its own", bad, control=True, good=f"uid {seen['uid']}")

    held = [name for name, bits in seen["capabilities"].items() if bits]
    control = bool(seen["capabilities"])
    yield found(escape, "no capabilities", held, control=control, good="none")

    yield _kernel(seen, gvisor=gvisor, host_release=host_release)

    sockets = seen["sockets"]
    open_ones = [
        name for name in ("raw", "packet", "vsock", "alg") if sockets[name] not in REFUSED | ABSENT
    ]
    control = sockets["tcp"] == sockets["unix"] == "ok"
    yield found(escape, "no raw sockets", open_ones, control=control, good="refused")

    reads = seen["reads"]
    harmless = _READABLE | (_GVISOR_READABLE if gvisor else set())
    readable = [path for path, answer in reads.items() if answer == "ok" and path not in harmless]
    control = all(reads[path] == "ok" for path in _READABLE)
    yield found(escape, "no secrets of the kernel", readable, control=control, good="masked")

    control = reads["/proc/self/status"] == "ok"
    yield found(escape, "no engine's socket", seen["engine_sockets"], control=control, good="none")

    usual = _USUAL_DEVICES | (_GVISOR_DEVICES if gvisor else set())
    devices = [name for name in seen["devices"] if name not in usual]
    control = "null" in seen["devices"]
    yield found(escape, "no devices", devices, control=control, good="the usual")

    others = [str(number) for number in seen["processes"] if number > _MOST_PROCESSES]
    control = 1 in seen["processes"]
    yield found(escape, "processes of its own", others, control=control, good="init and itself")

    writes = dict(seen["writes"])
    control = writes.pop("/tmp/x") == "ok"  # noqa: S108 - the container's
    written = [path for path, answer in writes.items() if answer == "ok"]
    yield found(files, "nothing but /tmp is written", written, control=control, good="read-only")

    ran = ["a program ran from /tmp"] if seen["run_from_tmp"] == "ok" else []
    control = seen["run_from_usr"] == "ok"
    yield found(files, "nothing runs from /tmp", ran, control=control, good=seen["run_from_tmp"])

    # A limit of one byte is safer than 0, with which the kernel may call a handler on the host.
    cores = [] if seen["core"] in (0, 1) else [f"of {seen['core']} bytes"]
    yield found("limits", "no core dumps", cores, control=True, good="off")
    size = [] if seen["file_size"] > 0 else ["no limit"]
    yield found("limits", "size of a file", size, control=True, good=f"{seen['file_size']} bytes")
    interfaces = [name for name in seen["interfaces"] if name != "lo"]
    control = sockets["tcp"] == "ok"
    yield found("network", "no interface", interfaces, control=control, good="loopback alone")


# In a namespace of its own, process ids start at 1; those of the host are far above.
_MOST_PROCESSES: Final = 1000


def _kernel(seen: dict[str, Any], *, gvisor: bool, host_release: str) -> Finding:
    """Whether dangerous system calls are refused by the filter, or served by another kernel."""
    promise = "dangerous system calls"
    if gvisor:
        other = seen["release"] != host_release
        text = f"served by gVisor's kernel, {seen['release']}" if other else "the host's kernel"
        return Finding(group="escape surface", promise=promise, held=other, seen=text)
    through = [
        f"{name}: {answer}" for name, answer in seen["calls"].items() if answer not in REFUSED
    ]
    through += [] if seen["no_new_privs"] == "1" else ["no_new_privs is off"]
    through += [] if seen["seccomp"] == "2" else ["no seccomp filter"]
    if seen["getpid"] != "ok" or not seen["calls"]:
        through = ["not checked: the control failed"]
    text = ", ".join(through) or f"{len(seen['calls'])} refused"
    return Finding(group="escape surface", promise=promise, held=not through, seen=text)
