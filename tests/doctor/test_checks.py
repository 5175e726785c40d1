"""What the doctor says of what its probes report; tests/docker has probes that really try."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.doctor import limit_checks
from sandbox.doctor.checks import examine
from sandbox.doctor.limit_checks import try_containers
from sandbox.engine.base import ContainerInfo, ContainerStartError
from sandbox.images.image_recipes import reference
from sandbox.policy.container_spec import FIRST_UID
from sandbox.store.owners import LABEL_OWNER
from sandbox.testing import FakeEngine, FakeFunction
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.doctor.checks import Check
    from sandbox.engine.base import EngineInfo
    from sandbox.testing import FakeContext
    from tests.fakes import Directory

POSTURE: dict[str, Any] = {
    "uid": FIRST_UID, "gid": FIRST_UID, "groups": [FIRST_UID], "capabilities": {"CapEff": 0},
    "no_new_privs": "1", "seccomp": "2", "interfaces": ["lo"], "root_read_only": True,
    "writable": [],
}  # fmt: skip


def healthy(ctx: FakeContext) -> Any:
    """The probe in a container that has all of its limits."""
    match ctx.input["probe"]:
        case "posture":
            return POSTURE
        case "memory":
            ctx.process.run_out_of_memory()
        case "processes":
            return {"started": 60, "refused": True}
        case "files":
            return {"bytes": 8 * MIB, "refused": True}
        case "cpu":
            return {"cores": 0.5}
        case _:
            ctx.process.stall()
    return None


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of the time limit ends soon."""
    monkeypatch.setattr(limit_checks, "_TIME_LIMIT", 0.05)


class Engine(FakeEngine):
    """An engine whose `info` differs by some fields."""

    def __init__(self, answer: Any = healthy, **fields: Any) -> None:
        super().__init__(default=answer)
        self._fields = fields

    def info(self) -> EngineInfo:
        return replace(super().info(), **self._fields)


def checks(directory: Directory, engine: FakeEngine, /, **settings: Any) -> dict[str, Check]:
    return {check.name: check for check in examine(engine, directory.settings(**settings))}


def test_a_healthy_machine_has_no_failure(directory: Directory) -> None:
    found = checks(directory, Engine())
    assert {check.status for check in found.values()} == {"ok"}
    assert found.keys() >= {
        "engine", "runtime class", "disk: store", "image: python", "image: go", "orphans",
        "containers", "user", "capabilities", "no_new_privs", "system calls", "network",
        "root file system", "memory limit", "process limit", "file limit", "CPU limit",
        "time limit",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"uid": 1000}, "user"),
        ({"groups": [FIRST_UID, 27]}, "user"),
        ({"capabilities": {"CapEff": 1}}, "capabilities"),
        ({"no_new_privs": "0"}, "no_new_privs"),
        ({"seccomp": "0"}, "system calls"),
        ({"interfaces": ["lo", "eth0"]}, "network"),
        ({"root_read_only": False}, "root file system"),
        ({"writable": ["/etc"]}, "root file system"),
    ],
)
def test_a_defence_that_is_off_is_the_one_failure(
    directory: Directory, changes: dict[str, Any], name: str
) -> None:
    def weak(ctx: FakeContext) -> Any:
        return POSTURE | changes if ctx.input["probe"] == "posture" else healthy(ctx)

    failed = [it for it in checks(directory, Engine(weak)).values() if it.status == "fail"]
    assert [check.name for check in failed] == [name]
    assert failed[0].hint


@pytest.mark.parametrize(
    ("probe", "output", "name"),
    [
        ("memory", {"bytes": 512 * MIB}, "memory limit"),
        ("processes", {"started": 512, "refused": False}, "process limit"),
        ("files", {"bytes": 128 * MIB, "refused": False}, "file limit"),
        ("cpu", {"cores": 1.0}, "CPU limit"),
        ("forever", None, "time limit"),
    ],
)
def test_a_limit_that_does_not_work_is_a_failure(
    directory: Directory, probe: str, output: Any, name: str
) -> None:
    def weak(ctx: FakeContext) -> Any:
        return output if ctx.input["probe"] == probe else healthy(ctx)

    failed = [it for it in checks(directory, Engine(weak)).values() if it.status == "fail"]
    assert [check.name for check in failed] == [name]
    assert "the probe was not stopped" in failed[0].seen
    assert "cgroup" in failed[0].hint


def test_a_probe_that_fails_itself_is_no_proof(directory: Directory) -> None:
    def broken(ctx: FakeContext) -> Any:
        if ctx.input["probe"] != "posture":
            ctx.process.exit(1)
        return POSTURE

    found = checks(directory, Engine(broken))
    failed = {check.name for check in found.values() if check.status == "fail"}
    assert failed == {
        "memory limit", "process limit", "file limit", "CPU limit", "time limit",
    }  # fmt: skip
    assert "FUNCTION_CRASHED" in found["memory limit"].seen


def test_containers_that_do_not_run_are_one_failure(directory: Directory) -> None:
    function = FakeFunction(failures={"start": ContainerStartError("no such file")})
    failed = [it for it in checks(directory, Engine(function)).values() if it.status == "fail"]
    assert [check.name for check in failed] == ["containers"]
    assert "no such file" in failed[0].seen


def test_gvisor_shows_no_filter_and_ends_at_its_limits(directory: Directory) -> None:
    def under_gvisor(ctx: FakeContext) -> Any:
        if ctx.input["probe"] == "posture":
            return POSTURE | {"no_new_privs": None, "seccomp": None}
        if ctx.input["probe"] == "processes":
            ctx.process.die(6, with_init=True)
        return healthy(ctx)

    engine = Engine(under_gvisor, runtime_classes=("runc", "gvisor"))
    settings = directory.settings(engine={"runtime_class": "gvisor"})
    found = {check.name: check for check in try_containers(engine, settings, "gvisor")}
    assert {check.status for check in found.values()} == {"ok"}
    assert "CPU limit" not in found


def test_an_engine_that_is_away_is_the_one_thing_to_say(directory: Directory) -> None:
    engine = Engine()
    engine.unreachable = True
    (check,) = checks(directory, engine).values()
    assert (check.name, check.status) == ("engine", "fail")


def test_a_runtime_class_that_is_missing_is_a_failure(directory: Directory) -> None:
    found = checks(directory, Engine(), engine={"runtime_class": "gvisor"})
    assert found["runtime class"].status == "fail"
    assert "gvisor" in found["runtime class"].seen
    assert "containers" not in found


def test_what_makes_it_slow_or_incomplete_is_a_warning(directory: Directory) -> None:
    engine = Engine(storage="vfs", runtime_classes=("runc",))
    engine.remove_image(reference("node"))
    engine.import_image(directory.path, tag=reference("deno"), labels={})
    found = checks(directory, engine)
    warned = {check.name for check in found.values() if check.status == "warn"}
    assert warned == {"engine", "image: node", "image: deno"}
    assert "crun would start containers faster" in found["runtime class"].seen


def test_what_killed_processes_left_is_told(directory: Directory) -> None:
    class Left(Engine):
        def containers(self, labels: Mapping[str, str]) -> Sequence[ContainerInfo]:
            return [ContainerInfo(id="left", labels={LABEL_OWNER: "dead"}, state="running")]

    assert checks(directory, Left())["orphans"].status == "warn"
