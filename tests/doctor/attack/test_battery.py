"""`sandbox doctor --attack` fails closed; tests/docker has the attacks themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox.doctor.attack import battery
from sandbox.doctor.attack.battery import PROMISES, attack
from sandbox.errors import EngineUnavailableError
from sandbox.testing import FakeEngine, FakeFunction

if TYPE_CHECKING:
    from sandbox.testing import FakeContext
    from tests.fakes import Directory

AWAY = EngineUnavailableError("no containers today")


def findings(directory: Directory, behaviour: Any) -> list[battery.Finding]:
    found = list(attack(FakeEngine(default=behaviour), directory.settings()))
    assert [(item.group, item.promise) for item in found] != []
    assert {(item.group, item.promise) for item in found} == set(PROMISES)
    assert len(found) == len(PROMISES)
    return found


@pytest.mark.parametrize(
    "behaviour",
    [
        FakeFunction(failures={"create": AWAY}),
        FakeFunction(),
        lambda ctx: None,
        lambda ctx: {},
        lambda ctx: ctx.process.exit(1),
    ],
    ids=["no containers", "echo", "nothing", "an empty answer", "crash"],
)
def test_what_cannot_be_checked_did_not_hold(directory: Directory, behaviour: Any) -> None:
    held = {item.promise for item in findings(directory, behaviour) if item.held}
    # Of this one, the refusal comes before any container; the control is on this machine.
    assert held <= {"private addresses are refused"}


def test_a_section_that_says_too_little_did_not_hold(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battery, "_SECTIONS", {})
    for section in ("_surface", "_limits", "_floods", "_network", "_egress", "_secrets", "_neighbours"):  # fmt: skip
        monkeypatch.setattr(battery, section, lambda _arena: iter(()))
    assert not any(item.held for item in findings(directory, FakeFunction()))


def test_what_the_probe_reports_is_judged(directory: Directory) -> None:
    """Probes as they would report where all holds, as far as they can be played."""
    left = iter([[], []])

    def probe(ctx: FakeContext) -> Any:
        match ctx.input.get("attack"):
            case "output":
                ctx.process.flood()
            case "logs":
                ctx.process.flood("stderr")
            case "connect":
                places = [f"{host}:{port}" for host, port in ctx.input["places"]]
                ctx.process.report["denied"] = [
                    host for host, _ in ctx.input["places"] if host.endswith("example.org")
                ]
                return dict.fromkeys(places, "ConnectionRefusedError")
            case "secrets":
                value = ctx.env.get("CANARY", "")
                ctx.log.info(f"token {value}")
                given = value == ctx.input["canary"]
                return {"given": given, "environments": [], "variables": {}}
            case "leave":
                found = next(left)
                return {"found": found, "processes": 2, "uid": id(found)}
            case "hurt":
                ctx.process.exit(1)
            case "hello":
                return "hello"
        return {}

    held = {item.promise for item in findings(directory, probe) if item.held}
    assert held >= {
        "size of output", "size of logs", "the host is not reached", "denied names are reported",
        "given to those that name it", "not in any environment", "not in logs",
        "not in the engine's records", "nothing is left for the next",
        "an honest function is served",
    }  # fmt: skip
    # Reached, and so held, would only be what is allowed.
    assert "only what is allowed is reached" not in held
