"""`sandbox doctor --attack`: holds on this engine, and notices what is open."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.config.loading import merge
from sandbox.doctor.attack.battery import PROMISES, attack
from tests.docker.weakened import Weakened

if TYPE_CHECKING:
    from sandbox import Settings
    from sandbox.doctor.attack.judges import Finding
    from sandbox.engine.docker.engine import DockerEngine


def findings(engine: Any, settings: Settings, runtime_class: str = "crun") -> list[Finding]:
    document = merge(
        settings.model_dump(mode="json", exclude_defaults=True),
        {"engine": {"runtime_class": runtime_class}},
    )
    return list(attack(engine, type(settings).model_validate(document)))


@pytest.mark.parametrize("runtime_class", ["crun", "gvisor"])
def test_everything_holds(engine: DockerEngine, settings: Settings, runtime_class: str) -> None:
    found = findings(engine, settings, runtime_class)
    assert {(item.group, item.promise) for item in found} == set(PROMISES)
    assert len(found) == len(PROMISES)
    assert [item for item in found if not item.held] == []


def test_defences_that_are_off_are_found(engine: DockerEngine, settings: Settings) -> None:
    weakened = Weakened(
        engine, seccomp="unconfined", uid=1000, gid=1000, masked_paths=(), read_only_paths=(),
        tmp_exec=True, network="bridge", memory=1 << 30, pids=2000, tmp=1 << 28,
    )  # fmt: skip
    open_ones = {item.promise for item in findings(weakened, settings) if not item.held}
    assert open_ones >= {
        "a user of its own", "dangerous system calls", "nothing runs from /tmp", "no interface",
        "memory limit", "process limit", "file limit",
    }  # fmt: skip


def test_the_command_prints_a_table_of_80_columns_and_json(store: Any) -> None:
    command = [sys.executable, "-m", "sandbox_cli", "doctor", "--attack"]
    environment = {"SANDBOX_STORE": str(store), "COLUMNS": "80", "PATH": "/usr/bin:/bin"}
    people = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert people.returncode == 0, people.stdout + people.stderr
    lines = people.stdout.splitlines()
    assert len(lines) == len(PROMISES) + 1
    assert max(map(len, lines)) <= 80
    assert lines[-1] == f"{len(PROMISES)} of {len(PROMISES)} held"
    # A limit that the operator has opened: nothing is hidden, and the exit code says so.
    environment["SANDBOX_LIMITS__OUTPUT"] = "200mb"
    programs = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, check=False
    )
    document = json.loads(programs.stdout)
    assert programs.returncode == 3
    assert document["held"] is False
    assert [item["promise"] for item in document["findings"] if not item["held"]] == ["size of output"]  # fmt: skip
