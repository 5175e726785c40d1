"""The seccomp profile of every container: Docker's default, with more denied.

Docker's list of allowed calls is data (`seccomp_default.json`, derived from a running engine by
`scripts/derive-seccomp`): allow-lists kept by hand get old, and new runtimes break on them. This
module has only the calls that we deny, and the few rules with arguments.

A call that Docker's profile does not know gives ENOSYS, so that a C library falls back to an older
call (Docker 20.10 with crun gives EPERM instead). A call that is denied on purpose gives EPERM.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, Final

_EPERM, _ENOSYS = 1, 38

# Denied beyond Docker's default. Each has been a way out of a container, or helps to find one, and
# no language runtime needs it.
DENIED: Final = {
    "io_uring_enter": "a large, young kernel surface that bypasses filters on the calls it makes",
    "io_uring_register": "see io_uring_enter",
    "io_uring_setup": "see io_uring_enter",
    "ptrace": "reads and writes other processes",
    "process_vm_readv": "reads other processes",
    "process_vm_writev": "writes other processes",
    "kcmp": "tells kernel pointers apart",
    "pidfd_getfd": "steals descriptors of other processes",
    "bpf": "loads programs into the kernel",
    "perf_event_open": "profiles the kernel; a long record of bugs",
    "userfaultfd": "holds kernel threads at a page fault, which wins races",
    "keyctl": "kernel keyrings are not namespaced",
    "add_key": "see keyctl",
    "request_key": "see keyctl",
    "unshare": "new namespaces bring back privileged kernel surface",
    "setns": "see unshare",
    "mount": "changes what is mounted",
    "umount": "see mount",
    "umount2": "see mount",
    "pivot_root": "see mount",
    "chroot": "see mount",
    "move_mount": "see mount",
    "open_tree": "see mount",
    "fsopen": "see mount",
    "fsmount": "see mount",
    "fsconfig": "see mount",
    "fspick": "see mount",
    "mount_setattr": "see mount",
    "name_to_handle_at": "with open_by_handle_at, opens files beyond the mount",
    "open_by_handle_at": "see name_to_handle_at",
    "fanotify_init": "watches whole mounts",
    "fanotify_mark": "see fanotify_init",
    "kexec_load": "replaces the kernel",
    "kexec_file_load": "see kexec_load",
    "init_module": "loads kernel modules",
    "finit_module": "see init_module",
    "delete_module": "see init_module",
    "modify_ldt": "segment descriptors; only old 16-bit emulation uses them",
    "vmsplice": "maps pages of a pipe; the way in of several page-cache bugs",
    "remap_file_pages": "obsolete, emulated, and a source of bugs",
    "syslog": "reads the kernel's log",
    "adjtimex": "the clock belongs to the host",
    "clock_adjtime": "see adjtimex",
    "clock_adjtime64": "see adjtimex",
    "clock_settime": "see adjtimex",
    "settimeofday": "see adjtimex",
    "acct": "process accounting belongs to the host",
    "quotactl": "quotas belong to the host",
    "swapon": "swap belongs to the host",
    "swapoff": "see swapon",
    "reboot": "belongs to the host",
    "iopl": "raw hardware access",
    "ioperm": "see iopl",
    "lookup_dcookie": "kernel profiling",
    "nfsservctl": "kernel NFS server",
    "vhangup": "terminals belong to the host",
    "sethostname": "names belong to the platform",
    "setdomainname": "see sethostname",
    # The 32-bit multiplexer would get around the rules for socket() below.
    "socketcall": "bypasses the rules on socket()",
}

# Harmless calls that are newer than the engine of the default.
_NEWER: Final = (
    "cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake", "getxattrat",
    "listxattrat", "map_shadow_stack", "mseal", "process_mrelease", "removexattrat", "setxattrat",
)  # fmt: skip

# socket(family, type): families a function may use, and types but SOCK_RAW and SOCK_PACKET.
# Unix sockets and loopback work; netlink answers "which addresses do I have".
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET = 1, 2, 3, 5
_SOCK_TYPE_MASK = 0xF
_SOCKETS: Final = (
    *((_AF_UNIX, kind) for kind in (_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET)),
    *((family, kind) for family in (_AF_INET, _AF_INET6) for kind in (_SOCK_STREAM, _SOCK_DGRAM)),
    # Netlink sockets are datagrams under either name.
    *((_AF_NETLINK, kind) for kind in (_SOCK_DGRAM, _SOCK_RAW)),
)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_CLONE_NAMESPACES = 0x7E020000


def build_profile(docker_allows: list[str]) -> dict[str, Any]:
    """The profile, in the JSON form that Docker takes, from the names that its default allows."""
    special = {"socket", "clone", "clone3", "personality"}
    allowed = sorted({*docker_allows, *_NEWER} - DENIED.keys() - special)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        # No 32-bit sub-architectures: a second system call table is a second attack surface.
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            {"names": sorted(DENIED), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM},
            *(
                _when("socket", _equal(0, family), _masked(1, _SOCK_TYPE_MASK, kind))
                for family, kind in _SOCKETS
            ),
            _when("clone", _masked(0, _CLONE_NAMESPACES, 0)),
            # clone3's flags are behind a pointer, where seccomp cannot look: use clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
            # PER_LINUX, and the query of the present one.
            _when("personality", _equal(0, 0)),
            _when("personality", _equal(0, 0xFFFFFFFF)),
        ],
    }


@functools.cache
def profile() -> str:
    """The profile as the JSON text that goes into the container's security options."""
    default = resources.files("sandbox.policy").joinpath("seccomp_default.json").read_text()
    return json.dumps(build_profile(json.loads(default)["allowed"]), separators=(",", ":"))


def _when(name: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
