"""What the probe reports becomes findings: only what was seen to hold does."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.doctor.attack.judges import judge_surface
from sandbox.policy.container_spec import FIRST_UID

HARD: dict[str, Any] = {
    "uid": FIRST_UID, "gid": FIRST_UID, "groups": [], "release": "6.1.0",
    "capabilities": {"CapEff": 0, "CapBnd": 0}, "no_new_privs": "1", "seccomp": "2",
    "calls": {"mount": "EPERM", "bpf": "ENOSYS"}, "getpid": "ok",
    "sockets": {
        "raw": "EPERM", "packet": "EPERM", "vsock": "EAFNOSUPPORT", "alg": "EPERM", "tcp": "ok",
        "unix": "ok",
    },
    "reads": {"/proc/kcore": "empty", "/proc/self/status": "ok", "/proc/self/environ": "ok"},
    "writes": {"/x": "EROFS", "/tmp/x": "ok"},
    "engine_sockets": [], "devices": ["null", "zero"], "processes": [1, 7],
    "run_from_tmp": "EACCES", "run_from_usr": "ok", "core": 1, "file_size": 100,
    "interfaces": ["lo"],
}  # fmt: skip


def judged(*, gvisor: bool = False, **changes: Any) -> dict[str, str]:
    """What did not hold, and why."""
    findings = judge_surface(HARD | changes, gvisor=gvisor, host_release="6.1.0")
    return {finding.promise: finding.seen for finding in findings if not finding.held}


def test_a_hard_container_holds() -> None:
    assert judged() == {}


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"uid": 0}, "a user of its own"),
        ({"groups": [0]}, "a user of its own"),
        ({"capabilities": {"CapEff": 1}}, "no capabilities"),
        ({"capabilities": {}}, "no capabilities"),
        ({"calls": {"mount": "ok"}}, "dangerous system calls"),
        ({"calls": {"mount": "EFAULT"}}, "dangerous system calls"),
        ({"calls": {}}, "dangerous system calls"),
        ({"getpid": "ENOSYS"}, "dangerous system calls"),
        ({"seccomp": "0"}, "dangerous system calls"),
        ({"no_new_privs": None}, "dangerous system calls"),
        ({"sockets": HARD["sockets"] | {"raw": "ok"}}, "no raw sockets"),
        ({"sockets": HARD["sockets"] | {"unix": "EPERM"}}, "no raw sockets"),
        ({"reads": HARD["reads"] | {"/proc/kcore": "ok"}}, "no secrets of the kernel"),
        ({"engine_sockets": ["/run/docker.sock"]}, "no engine's socket"),
        ({"devices": ["null", "sda"]}, "no devices"),
        ({"devices": []}, "no devices"),
        ({"processes": [1, 40_000]}, "processes of its own"),
        ({"writes": {"/x": "ok", "/tmp/x": "ok"}}, "nothing but /tmp is written"),
        ({"writes": {"/x": "EROFS", "/tmp/x": "EROFS"}}, "nothing but /tmp is written"),
        ({"run_from_tmp": "ok"}, "nothing runs from /tmp"),
        ({"run_from_usr": "ENOENT"}, "nothing runs from /tmp"),
        ({"core": -1}, "no core dumps"),
        ({"file_size": -1}, "size of a file"),
        ({"interfaces": ["lo", "eth0"]}, "no interface"),
    ],
)
def test_what_is_open_or_has_no_control_does_not_hold(
    changes: dict[str, Any], promise: str
) -> None:
    assert promise in judged(**changes)


def test_gvisor_is_known_by_its_kernel() -> None:
    reached = {"calls": {"mount": "ok"}, "seccomp": None, "no_new_privs": None}
    assert judged(gvisor=True, release="4.4.0", **reached) == {}
    assert judged(gvisor=True, **reached) == {"dangerous system calls": "the host's kernel"}
