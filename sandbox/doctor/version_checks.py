"""Known ways out of a container, by the versions that have them.

Ways that need an image, a mount, a plug-in or a capability that no function has are left out. A
distribution may fix a fault and keep the version, with a suffix of its own; then the check is a
warning, not a failure.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.doctor.limit_checks import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.engine.base import EngineInfo, RuntimeClass

# Major, minor, patch, and the number of a release candidate, which comes before its release.
Version = tuple[int, int, int, int]
_RELEASED: Final = 1_000_000
_VERSION: Final = re.compile(
    r"(?:^|[^\d.])v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-~+.]?rc[.-]?(\d{1,6}))?", re.ASCII
)
# What packagers add: 1.1.5+ds1-1+deb12u1, 20.10.24+dfsg1, 1.1.12-0ubuntu1, 6.1.0-28-amd64.
_PACKAGED: Final = re.compile(
    r"deb\d|dfsg|[+~-]ds|ubuntu|\.el\d|\.fc\d|\.amzn|\.azl|\.suse|-[0-9.]+-(?:amd64|arm64|generic|cloud)",
    re.ASCII,
)
_TIMEOUT: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """A fault of one component. `affected` are ranges: first bad version, first good version."""

    component: str
    ids: tuple[str, ...]
    what: str
    affected: tuple[tuple[str, str], ...]

    @property
    def fixed(self) -> str:
        """The first versions without it."""
        return " or ".join(dict.fromkeys(before for _, before in self.affected))

    def affects(self, version: Version) -> bool:
        return any(_known(first) <= version < _known(before) for first, before in self.affected)


ADVISORIES: Final = (
    Advisory(
        component="runc",
        ids=("CVE-2019-5736",),
        what="a container overwrites runc on the host",
        affected=(("0.0", "1.0.0-rc7"),),
    ),
    Advisory(
        component="runc",
        ids=("CVE-2021-30465",),
        what="a race of links while mounting leads to the host's files",
        affected=(("0.0", "1.0.0-rc95"),),
    ),
    Advisory(
        component="runc",
        ids=("CVE-2024-21626",),
        what="a descriptor that is left open leads to the host's files",
        affected=(("1.0.0-rc93", "1.1.12"),),
    ),
    Advisory(
        component="runc",
        ids=("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"),
        what="races while masking paths make it write to the host's /proc",
        affected=(("0.0", "1.2.8"), ("1.3.0-rc1", "1.3.3"), ("1.4.0-rc1", "1.4.0-rc3")),
    ),
    Advisory(
        component="crun",
        ids=("CVE-2022-27650",),
        what="processes start with capabilities that can be inherited",
        affected=(("0.0", "1.4.4"),),
    ),
    Advisory(
        component="engine",
        ids=("CVE-2021-41089", "CVE-2021-41091"),
        what="users of the host get into containers' directories",
        affected=(("0.0", "20.10.9"),),
    ),
    Advisory(
        component="engine",
        ids=("CVE-2022-36109",),
        what="supplementary groups are not set up, which opens files to the function",
        affected=(("0.0", "20.10.18"),),
    ),
    Advisory(
        component="containerd",
        ids=("CVE-2020-15257",),
        what="containers reach the API of its shims",
        affected=(("0.0", "1.3.9"), ("1.4.0", "1.4.3")),
    ),
    Advisory(
        component="containerd",
        ids=("CVE-2024-25621",),
        what="users of the host get into containers' directories",
        affected=(("0.0", "1.7.29"), ("2.0.0", "2.0.7"), ("2.1.0", "2.1.5")),
    ),
    Advisory(
        component="kernel",
        ids=("CVE-2016-5195",),
        what="Dirty COW: files that are read-only can be written",
        affected=(("2.6.22", "4.4.26"), ("4.5", "4.7.9"), ("4.8", "4.8.3")),
    ),
    Advisory(
        component="kernel",
        ids=("CVE-2022-0847",),
        what="Dirty Pipe: files that are read-only can be written, those of images too",
        affected=(("5.8", "5.10.102"), ("5.11", "5.15.25"), ("5.16", "5.16.11")),
    ),
    Advisory(
        component="kernel",
        ids=("CVE-2023-3269",),
        what="StackRot: a process becomes the kernel through its own memory map",
        affected=(("6.1", "6.1.37"), ("6.2", "6.3.11"), ("6.4", "6.4.1")),
    ),
)


def parse_version(text: str) -> Version | None:
    """The version in a text such as `v1.1.12-0-g51d5e94`; None if there is none."""
    found = _VERSION.search(text.strip())
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return (
        int(major),
        int(minor),
        int(patch or 0),
        _RELEASED if candidate is None else int(candidate),
    )


def is_packaged(text: str) -> bool:
    """Whether a distribution made this version, and may have fixed faults in it."""
    return _PACKAGED.search(text) is not None


def check_versions(info: EngineInfo, runtime_class: RuntimeClass) -> Iterator[Check]:
    """One check for each component that functions could attack and whose version is known.

    Under gVisor, a function cannot reach the host's kernel and runc.
    """
    versions = dict(info.components)
    if runtime_class == "crun":
        versions.pop("runc", None)
        versions |= _local(info, "crun")
    elif runtime_class == "gvisor":
        versions.pop("runc", None)
        versions.pop("kernel", None)
    yield from compare(versions)


def compare(versions: Mapping[str, str]) -> Iterator[Check]:
    """The checks for these versions, by component."""
    for component, text in versions.items():
        version = parse_version(text)
        if version is None:
            continue
        found = [
            advisory
            for advisory in ADVISORIES
            if advisory.component == component and advisory.affects(version)
        ]
        yield _check(component, text, found)


def _check(component: str, text: str, found: list[Advisory]) -> Check:
    name = f"version: {component}"
    if not found:
        return Check(name=name, status="ok", seen=f"{text}, no known way out")
    faults = "; ".join(f"{', '.join(advisory.ids)} ({advisory.what})" for advisory in found)
    upgrade = f"upgrade {component} to {found[-1].fixed} or later"
    if is_packaged(text):
        return Check(
            name=name,
            status="warn",
            seen=f"{text} has {faults}, unless its distribution has fixed that",
            hint=f"look up these faults in the distribution's security tracker; else {upgrade}",
        )
    return Check(name=name, status="fail", seen=f"{text} has {faults}", hint=upgrade)


def _local(info: EngineInfo, program: str) -> dict[str, str]:
    """The version of a program that the engine does not report, if it is on this machine."""
    path = shutil.which(program)
    if path is None or info.components.get("kernel") != platform.release():
        return {}
    try:
        told = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {program: told.splitlines()[0]} if told else {}


def _known(text: str) -> Version:
    version = parse_version(text)
    assert version is not None  # noqa: S101 - it stands above
    return version
