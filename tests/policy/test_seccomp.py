from __future__ import annotations

import json

from sandbox.policy.seccomp import DENIED, build_profile, profile


def allowed(names: list[str]) -> set[str]:
    rules = build_profile(names)["syscalls"]
    return {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_what_is_denied_is_denied_whatever_docker_allows() -> None:
    assert not allowed(["read", *DENIED]) & DENIED.keys()


def test_what_docker_allows_stays_allowed() -> None:
    assert {"read", "write", "openat", "futex"} <= allowed(["read", "write", "openat", "futex"])


def test_raw_packet_vsock_and_alg_sockets_have_no_rule() -> None:
    rules = [rule for rule in json.loads(profile())["syscalls"] if rule["names"] == ["socket"]]
    families = {rule["args"][0]["value"] for rule in rules}
    types_of = {
        family: {
            rule["args"][1]["valueTwo"] for rule in rules if rule["args"][0]["value"] == family
        }
        for family in families
    }
    assert families == {1, 2, 10, 16}  # unix, inet, inet6, netlink
    assert 3 not in types_of[2] | types_of[10]  # SOCK_RAW


def test_the_derived_default_covers_what_every_runtime_needs() -> None:
    text = json.loads(profile())
    names = {name for rule in text["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}  # fmt: skip
    assert {"epoll_wait", "mmap", "clone", "execve", "getrandom", "statx", "rseq"} <= names
    assert len(names) > 250
