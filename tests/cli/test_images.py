"""`sandbox images`, over the fake engine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.engine.base import ContainerInfo
from sandbox.images.image_recipes import IMAGE_NAMES, reference
from sandbox.store.owners import LABEL_OWNER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from sandbox.testing import FakeEngine

    Run = Callable[..., Result]
    Play = Callable[..., FakeEngine]


@pytest.fixture
def build(sandbox: Run, project: Path) -> Run:
    """`build("python")` is `sandbox images build` with a base and CA certificates at hand."""
    (project / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    options = ("--base", "debian:trixie-slim", "--ca-bundle", "ca.pem")
    return lambda *arguments: sandbox("images", "build", *options, *arguments)


def test_images_are_listed_with_state_version_and_size(
    sandbox: Run, play: Play, project: Path
) -> None:
    engine = play()
    images = json.loads(sandbox("images", "list", "--json").stdout)
    assert [image["name"] for image in images] == list(IMAGE_NAMES)
    assert {image["state"] for image in images} == {"ready"}
    assert sandbox("images", "list").stderr == ""
    engine.remove_image(reference("node"))
    engine.import_image(project, tag=reference("deno"), labels={})
    listed = sandbox("images", "list")
    table = {line.split()[0]: line.split()[1] for line in listed.stdout.splitlines()}
    assert (table["NAME"], table["node"], table["deno"]) == ("STATE", "missing", "stale")
    assert "`sandbox images build`" in listed.stderr


def test_only_what_is_missing_is_built(play: Play, build: Run) -> None:
    engine = play()
    engine.remove_image(reference("python"))
    # The toolbox is from another base.
    lines = dict(re.findall(r"^(\S+) +(up to date|built in \S+) ", build().stdout, re.MULTILINE))
    assert lines.keys() == {"toolbox", *IMAGE_NAMES}
    assert lines["python"].startswith("built in")
    lines = dict(re.findall(r"^(\S+) +(up to date|built in \S+) ", build().stdout, re.MULTILINE))
    assert set(lines.values()) == {"up to date"}
    events = json.loads(build("python", "--json").stdout)
    assert [(event["image"], event["event"]) for event in events] == [("python", "current")]


def test_an_image_that_is_none_is_named_with_those_there_are(play: Play, build: Run) -> None:
    play()
    ended = build("cobol")
    assert ended.exit_code == 3
    assert "cobol" in ended.stderr
    assert "python" in ended.stderr


def test_a_build_that_fails_shows_the_end_of_its_output(play: Play, build: Run) -> None:
    from sandbox.engine.base import ImageBuildError

    engine = play()
    engine.remove_image(reference("python"))

    def fail(*_: Any, **__: Any) -> Any:
        raise ImageBuildError("step 3 failed", details={"log": "no such package"})

    engine.build_image = fail  # type: ignore[method-assign]
    ended = build("python")
    assert ended.exit_code == 3
    assert "no such package" in ended.stderr


def test_images_and_orphans_are_removed(sandbox: Run, play: Play) -> None:
    engine = play()
    orphan = ContainerInfo(id="left", labels={LABEL_OWNER: "dead"}, state="running")
    engine.containers = lambda _: [orphan]  # type: ignore[method-assign]
    ended = sandbox("images", "remove")
    assert "removed alyx-sandbox/python:latest" in ended.stdout
    assert "removed 1 orphaned container\n" in ended.stdout
    assert json.loads(sandbox("images", "remove", "--json").stdout) == {
        "images": [],
        "containers": 1,
    }
