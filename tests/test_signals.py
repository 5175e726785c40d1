"""Signals that a process inherits: the tests' own, and those of the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

import pytest

# Starts a program as a shell without job control starts a background job.
IGNORING_SIGINT = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
WAIT = "import signal; print('ready', flush=True); signal.pause()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_sigint_interrupts_a_child(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGINT)
    _, complaints = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in complaints


def test_sigint_interrupts_a_child_where_the_tests_were_started_with_it_ignored() -> None:
    name = test_sigint_interrupts_a_child.__name__
    ended = subprocess.run(
        [*IGNORING_SIGINT, sys.executable, "-m", "pytest", "-q", f"{__file__}::{name}"],
        cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
