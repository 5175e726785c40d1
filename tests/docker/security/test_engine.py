"""What the engine is asked for, and what is made of an engine that is not as it should be."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import EngineUnavailableError, PolicyRefusedError, RuntimeNotAvailableError, Sandbox
from sandbox.functions.discovery import function_from_path
from sandbox.images.image_recipes import reference
from tests.docker.security.conftest import docker, inspect

if TYPE_CHECKING:
    from sandbox.engine.base import ContainerSpec, Image
    from sandbox.models import LogEntry
    from tests.docker.security.conftest import Arena

HANDLER = "def handler(ctx):\n    return 'ran'\n"
HOLD = "import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(1)\nprint('{\"success\": true}')\n"


def test_a_runtime_class_that_the_engine_lacks_is_never_replaced(
    crun: Arena, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = dataclasses.replace(crun.engine.info(), runtime_classes=("runc", "crun"))
    monkeypatch.setattr(crun.engine, "info", lambda: info, raising=False)
    wanted = crun.settings.engine.model_copy(update={"runtime_class": "gvisor"})
    settings = crun.settings.model_copy(update={"engine": wanted})
    function, _ = function_from_path(crun.write(HANDLER))
    assert function is not None
    with Sandbox(tmp_path, settings=settings, engine=crun.engine) as sandbox:  # type: ignore[arg-type]
        with pytest.raises(PolicyRefusedError, match="gvisor"):
            sandbox.invoke(function)
    assert crun.engine.created == []


def test_the_runtime_class_that_runs_is_the_one_that_was_asked_for(arena: Arena) -> None:
    """By what the engine says, and by what the kernel inside says of itself."""
    seen: dict[str, Any] = {}

    def look(entry: LogEntry) -> None:
        if entry.message == "here":
            seen.update(inspect(arena.engine.created[-1]))

    code = HOLD.replace("{\"success\": true}", "{\"success\": true, \"output\": \"' + open('/proc/version').read().split()[2] + '\"}")  # fmt: skip
    result = arena.attack(code, on_log=look)
    assert result.response is not None
    assert result.response.stats.runtime_class == arena.runtime_class
    names = {"runc": "runc", "crun": "crun", "gvisor": "runsc"}
    assert seen["HostConfig"]["Runtime"] == names[arena.runtime_class]
    own = Path("/proc/version").read_text().split()[2]
    assert (result.output == own) == (arena.runtime_class != "gvisor")


def test_an_image_under_our_name_that_is_not_ours_is_refused(
    crun: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a tag was moved: the digest of its inputs is in its label, and is compared."""
    real = crun.engine.image

    def image(name: str) -> Image | None:
        return real(reference("node") if name.startswith(reference("python")) else name)

    assert crun.attack(HANDLER).output == "ran"  # the control
    monkeypatch.setattr(crun.engine, "image", image, raising=False)
    assert crun.attack(HANDLER).code == "RUNTIME_NOT_AVAILABLE"


def test_a_tag_that_moves_during_a_run_changes_nothing_of_it(crun: Arena) -> None:
    """An image is run by its id: its tag is read once."""
    tag = "alyx-sandbox-test/moving:tag"
    docker("tag", reference("python"), tag)
    python, node = (
        json.loads(docker("image", "inspect", reference(name)))[0]["Id"]
        for name in ("python", "node")
    )
    specs: list[ContainerSpec] = []

    def move(spec: ContainerSpec) -> ContainerSpec:
        docker("tag", reference("node"), tag)
        specs.append(spec)
        return spec

    try:
        crun.engine.change = move
        settings = {"images": {"override": {"python": tag}}}
        assert crun.attack(HANDLER, settings=settings).output == "ran"
        assert [spec.image for spec in specs] == [python]
        assert json.loads(docker("image", "inspect", tag))[0]["Id"] == node
    finally:
        docker("rmi", tag)


def test_nothing_is_executed_in_or_copied_from_a_container_that_ran_untrusted_code(
    arena: Arena,
) -> None:
    """The engine's own record: only what starting, attaching and removing takes."""
    since = str(int(time.time()) - 1)
    arena.attack(HANDLER)
    arena.attack("import os\nos.kill(os.getpid(), 9)\n")
    arena.attack("import time\ntime.sleep(60)\n", manifest="timeout: 1s\n")
    ours = set(arena.engine.created)
    events = docker("events", "--since", since, "--until", str(int(time.time()) + 1), "--filter=type=container", "--format={{json .}}")  # fmt: skip
    actions = {
        event["Action"].split(":")[0]
        for event in map(json.loads, events.splitlines())
        if event["id"] in ours
    }
    assert {"create", "attach", "start"} <= actions  # the control
    assert actions <= {"create", "attach", "detach", "start", "kill", "die", "destroy", "oom"}


def test_what_the_engine_says_of_its_host_stays_with_the_operator(crun: Arena) -> None:
    """An engine that cannot mount the bundle, or cannot start the command, names host paths."""
    missing = Path("/var/lib/docker/no/such/bundle")

    def elsewhere(spec: ContainerSpec) -> ContainerSpec:
        mounts = [dataclasses.replace(spec.mounts[0], source=missing), *spec.mounts[1:]]
        return dataclasses.replace(spec, mounts=tuple(mounts))

    crun.engine.change = elsewhere
    result = crun.attack(HANDLER, host_paths_allowed=True)
    assert isinstance(result.error, EngineUnavailableError)
    crun.engine.change = lambda spec: dataclasses.replace(spec, command=("/no/such/init",))
    result = crun.attack(HANDLER)
    assert result.code == "INIT_FAILED"


def test_an_image_that_is_gone_is_named_with_what_brings_it_back(crun: Arena) -> None:
    crun.engine.change = lambda spec: dataclasses.replace(spec, image="sha256:" + "0" * 64)
    result = crun.attack(HANDLER)
    assert isinstance(result.error, RuntimeNotAvailableError)
    assert "sandbox images build" in str(result.error)
