"""What every test relies on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests import fakes

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Let SIGINT interrupt, also where it was ignored at the start, and so in every child. And let
    hypothesis measure no time.

    A shell that has no job control, such as that of `nohup make test &`, starts what runs in the
    background with SIGINT ignored, and a process hands that down to its children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # An example that is slow on a busy machine is no defect.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


@pytest.fixture
def directory(tmp_path: Path) -> fakes.Directory:
    """An empty functions directory, and a store."""
    return fakes.directory(tmp_path)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that the tree stays clean."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, tracked)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", target, source],
        check=True,
        capture_output=True,
    )
    (built,) = target.glob("*.whl")
    return built
