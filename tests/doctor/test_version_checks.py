"""Versions with known ways out of a container are found, and no others."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.doctor.version_checks import (
    ADVISORIES,
    check_versions,
    compare,
    is_packaged,
    parse_version,
)
from sandbox.engine.base import EngineInfo

INFO = EngineInfo(
    name="Docker Engine",
    version="28.0.0",
    api_version="1.41",
    runtime_classes=("runc", "crun", "gvisor"),
    cgroup_version="2",
    storage="overlay2",
    root_dir="/var/lib/docker",
    architecture="x86_64",
    warnings=(),
    components={"engine": "28.0.0", "runc": "1.1.5", "kernel": "5.15.0-no-such-machine"},
)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.1.12", (1, 1, 12)),
        ("v1.1.12-0-g51d5e94", (1, 1, 12)),
        ("1.1.5+ds1-1+deb12u1", (1, 1, 5)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("6.18.44-fc-v669", (6, 18, 44)),
        ("crun version 1.8.1", (1, 8, 1)),
        ("5.8", (5, 8, 0)),
    ],
)
def test_versions_are_read_as_components_write_them(
    text: str, version: tuple[int, int, int]
) -> None:
    parsed = parse_version(text)
    assert parsed is not None
    assert parsed[:3] == version


def test_a_candidate_comes_before_its_release() -> None:
    candidate, other = parse_version("1.4.0-rc.2"), parse_version("1.4.0-rc3")
    release = parse_version("1.4.0")
    assert candidate is not None
    assert other is not None
    assert release is not None
    assert candidate < other < release


@pytest.mark.parametrize("text", ["", "7c3aca7a610df76212171d200ca3811ff6096eb8", "unknown", "1"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert parse_version(text) is None
    assert list(compare({"runc": text})) == []


@given(st.text(max_size=200))
def test_no_text_makes_it_raise(text: str) -> None:
    parse_version(text)
    is_packaged(text)


@pytest.mark.parametrize(
    ("component", "version", "identifier"),
    [
        ("runc", "1.1.11", "CVE-2024-21626"),
        ("runc", "v1.1.11-0-g4bccb38", "CVE-2024-21626"),
        ("runc", "1.1.12", "CVE-2025-31133"),
        ("runc", "1.2.7", "CVE-2025-52881"),
        ("runc", "1.3.2", "CVE-2025-52565"),
        ("runc", "1.4.0-rc.2", "CVE-2025-31133"),
        ("crun", "crun version 1.4.3", "CVE-2022-27650"),
        ("engine", "20.10.17", "CVE-2022-36109"),
        ("containerd", "1.7.28", "CVE-2024-25621"),
        ("kernel", "5.15.24", "CVE-2022-0847"),
        ("kernel", "6.1.36", "CVE-2023-3269"),
    ],
)
def test_a_version_with_a_way_out_fails_and_is_told_what_to_upgrade_to(
    component: str, version: str, identifier: str
) -> None:
    (check,) = compare({component: version})
    assert check.status == "fail"
    assert identifier in check.seen
    assert check.hint.startswith(f"upgrade {component} to ")


@pytest.mark.parametrize(
    ("component", "version"),
    [
        ("runc", "1.2.8"),
        ("runc", "1.3.3"),
        ("runc", "1.4.0"),
        ("runc", "1.4.0-rc.3"),
        ("crun", "crun version 1.8.1"),
        ("engine", "28.5.1"),
        ("containerd", "1.7.29"),
        ("containerd", "2.2.0"),
        ("kernel", "5.15.25"),
        ("kernel", "6.18.44-fc-v669"),
    ],
)
def test_a_version_without_is_ok(component: str, version: str) -> None:
    (check,) = compare({component: version})
    assert check.status == "ok"
    assert check.hint == ""


@pytest.mark.parametrize(
    ("component", "version"),
    [
        ("runc", "1.1.5+ds1-1+deb12u1"),
        ("runc", "1.1.7-0ubuntu1~22.04.2"),
        ("runc", "1.1.9-2.el9_3"),
        ("containerd", "1.6.20~ds1-1+deb12u3"),
        ("kernel", "6.1.0-28-amd64"),
        ("kernel", "5.15.0-91-generic"),
    ],
)
def test_a_distribution_s_package_is_a_warning_that_says_why(component: str, version: str) -> None:
    (check,) = compare({component: version})
    assert check.status == "warn"
    assert "distribution" in check.seen
    assert "security tracker" in check.hint


def test_only_what_functions_meet_is_compared() -> None:
    def names(runtime_class: str) -> set[str]:
        return {check.name for check in check_versions(INFO, runtime_class)}  # type: ignore[arg-type]

    assert names("runc") == {"version: engine", "version: runc", "version: kernel"}
    assert names("crun") == {"version: engine", "version: kernel"}
    assert names("gvisor") == {"version: engine"}


def test_an_engine_that_tells_nothing_is_no_failure() -> None:
    assert list(check_versions(dataclasses.replace(INFO, components={}), "runc")) == []


def test_every_advisory_is_one() -> None:
    for advisory in ADVISORIES:
        assert all(identifier.startswith("CVE-") for identifier in advisory.ids)
        for first, before in advisory.affected:
            low, high = parse_version(first), parse_version(before)
            assert low is not None
            assert high is not None
            assert low < high
            assert advisory.affects(low)
            assert not advisory.affects(high)
