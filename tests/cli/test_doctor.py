"""`sandbox doctor`: what is printed; tests/doctor has what is checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sandbox_cli import doctor

from sandbox.doctor.attack.judges import Finding
from sandbox.doctor.checks import Check

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from sandbox.testing import FakeEngine

    Run = Callable[..., Result]
    Play = Callable[..., FakeEngine]

OK = Check(name="engine", status="ok", seen="fake 1")
WARNED = Check(name="image: go", status="warn", seen="missing", hint="sandbox images build go")
FAILED = Check(name="user", status="fail", seen="uid 0", hint="look at the engine")


@pytest.mark.parametrize(
    ("checks", "exit_code"), [([OK], 0), ([OK, WARNED], 0), ([OK, FAILED, WARNED], 3)]
)
def test_a_failure_decides_the_exit_code_and_comes_with_a_hint(
    sandbox: Run,
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
    checks: list[Check],
    exit_code: int,
) -> None:
    play()
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(checks))
    ended = sandbox("doctor")
    assert ended.exit_code == exit_code
    lines = ended.stdout.splitlines()
    hints = [check.hint for check in checks if check.hint]
    assert [line.split("hint: ")[1] for line in lines if "hint: " in line] == hints
    assert [line.split()[0] for line in lines if "hint: " not in line] == [
        check.status for check in checks
    ]
    ended = sandbox("doctor", "--json")
    assert ended.exit_code == exit_code
    document = json.loads(ended.stdout)
    assert document["healthy"] is (exit_code == 0)
    assert document["checks"] == [check.to_dict() for check in checks]


def test_an_engine_that_is_away_is_a_failure(sandbox: Run, play: Play) -> None:
    play().unreachable = True
    ended = sandbox("doctor")
    assert ended.exit_code == 3
    assert ended.stdout.startswith("fail  engine ")


@pytest.mark.parametrize("held", [True, False])
def test_attacks_that_are_open_decide_the_exit_code(
    sandbox: Run, play: Play, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    play()
    found = [
        Finding(group="limits", promise="memory limit", held=True, seen="x" * 200),
        Finding(group="network", promise="no interface", held=held, seen="eth0"),
    ]
    monkeypatch.setattr(doctor.battery, "attack", lambda *_: iter(found))
    ended = sandbox("doctor", "--attack")
    assert ended.exit_code == (0 if held else 3)
    first, second, last = ended.stdout.splitlines()
    assert first.startswith("held  limits          memory limit")
    assert second.split()[0] == ("held" if held else "OPEN")
    assert last == f"{1 + held} of 2 held"
    document = json.loads(sandbox("doctor", "--attack", "--json").stdout)
    assert document["held"] is held
    assert [finding["promise"] for finding in document["findings"]] == [
        "memory limit",
        "no interface",
    ]
