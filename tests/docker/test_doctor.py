"""The doctor's probes really reach for more: where a defence is off, the doctor notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox.doctor.checks import examine
from tests.docker.weakened import Weakened

if TYPE_CHECKING:
    from sandbox.config.settings import Settings
    from sandbox.doctor.checks import Check
    from sandbox.engine.docker.engine import DockerEngine


def failures(engine: Any, settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in examine(engine, settings) if check.status == "fail"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"memory": 2**30, "cpu": 2.0, "pids": 2000, "tmp": 2**28},
            {"memory limit", "CPU limit", "process limit", "file limit"},
        ),
        (
            {"seccomp": "unconfined", "uid": 1000, "gid": 1000, "network": "bridge"},
            {"system calls", "user", "network"},
        ),
    ],
)
def test_a_defence_that_is_off_is_found(
    changes: dict[str, Any], expected: set[str], engine: DockerEngine, settings: Settings
) -> None:
    found = failures(Weakened(engine, **changes), settings)
    assert found.keys() == expected
    assert all(check.hint for check in found.values())
