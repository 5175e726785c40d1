"""The machine of a run, without which its figures mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox import __version__

if TYPE_CHECKING:
    from sandbox.engine.base import Engine


def describe(engine: Engine) -> dict[str, str]:
    """The machine, the engine, and the version measured, each on one line."""
    info = engine.info()
    classes = ", ".join(info.runtime_classes)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": f"{__version__} {_commit()}".strip(),
        "processors": f"{os.cpu_count()}, {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 20} MiB",
        "kernel": platform.release(),
        "engine": f"{info.name} {info.version}, {classes}; cgroup {info.cgroup_version}, "
        f"{info.storage}",
        "python": platform.python_version(),
        "load": " ".join(f"{value:.1f}" for value in os.getloadavg()) + " at the start",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
