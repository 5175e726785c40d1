"""What every test relies on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests import fakes

if TYPE_CHECKING:
    from pathlib import Path


def pytest_configure() -> None:
    """Let SIGINT interrupt, also where it was ignored at the start, and so in every child.

    A shell that has no job control, such as that of `nohup make test &`, starts what runs in the
    background with SIGINT ignored, and a process hands that down to its children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def directory(tmp_path: Path) -> fakes.Directory:
    """An empty functions directory, and a store."""
    return fakes.directory(tmp_path)
