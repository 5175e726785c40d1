"""What images are made of, and which of them a build builds. No engine is needed."""

from __future__ import annotations

import base64
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.engine.base import EngineInfo, Image, ImageBuildError
from sandbox.errors import RuntimeNotAvailableError
from sandbox.images import catalog, image_builder
from sandbox.images import image_recipes as recipes
from sandbox.images.image_recipes import IMAGE_NAMES, LABEL_BASE, LABEL_INPUTS, RECIPES, reference
from sandbox.runtimes import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

DEBIAN = "alyx-sandbox/debian:trixie"


class ImageStore:
    """The image half of an engine, in memory; `built` says what was built, in order."""

    def __init__(self, *, architecture: str = "x86_64") -> None:
        self.architecture = architecture
        self.built: list[str] = []
        self.build_args: dict[str, dict[str, str]] = {}
        self.held = {DEBIAN: Image(id="sha256:debian", tags=(DEBIAN,), labels={}, size=1)}

    def info(self) -> EngineInfo:
        return EngineInfo(
            name="", version="", api_version="", runtime_classes=(), cgroup_version="",
            storage="", root_dir="", architecture=self.architecture, warnings=(),
        )  # fmt: skip

    def image(self, name: str) -> Image | None:
        return self.held.get(name)

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        return [image for image in self.held.values() if labels.keys() <= image.labels.keys()]

    def build_image(
        self, context: Path, *, tag: str, build_args: Mapping[str, str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        assert (context / "Dockerfile").is_file()
        yield "Step 1"
        self.built.append(tag.removeprefix("alyx-sandbox/").removesuffix(":latest"))
        self.build_args[self.built[-1]] = dict(build_args)
        self.held[tag] = Image(id=f"sha256:{tag}", tags=(tag,), labels=labels, size=7)

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:
        raise AssertionError("the Debian image is there already")

    def remove_image(self, name: str) -> bool:
        return self.held.pop(name, None) is not None


@pytest.fixture
def ca_bundle(tmp_path: Path) -> Path:
    path = tmp_path / "corporate.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\n")
    return path


@pytest.fixture
def build(ca_bundle: Path) -> Callable[..., list[str]]:
    """`build(store, *names)` builds, and returns what was built for it, in order."""

    def run(store: ImageStore, *names: str, **options: object) -> list[str]:
        store.built.clear()
        image_builder.build(store, names, ca_bundle=ca_bundle, environment={}, **options)
        return list(store.built)

    return run


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str], Path]:
    """`edited("base/init.c")` is a copy of the images' folder in which that file is changed."""

    def copy(path: str, *, old: str = "", new: str = "\n# changed\n") -> Path:
        root = tmp_path / f"images-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(recipes.folder(), root)
        text = (root / path).read_text()
        changed = text.replace(old, new) if old else text + new
        assert changed != text
        (root / path).write_text(changed)
        return root

    return copy


def stale_in(root: Path) -> set[str]:
    """The images whose inputs in `root` are not those of the project."""
    return {
        name
        for name in RECIPES
        if recipes.inputs_digest(name, root) != recipes.inputs_digest(name, recipes.folder())
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_pin_is_an_argument_of_its_dockerfile_and_the_other_way_round(name: str) -> None:
    dockerfile = (recipes.folder() / name / "Dockerfile").read_text()
    declared = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    given = {"BASE", "REFRESH"} if name == "toolbox" else set()
    assert declared == set(recipes.build_args(name, recipes.folder())) | given


def test_pins_are_exact_versions_and_whole_digests() -> None:
    for section in recipes.pins(recipes.folder()).values():
        for key, value in section.items():
            if key.endswith("version"):
                assert re.fullmatch(r"\d+\.\d+\.\d+", value)
            elif key.endswith("sha256"):
                assert re.fullmatch(r"[0-9a-f]{64}", value)
            elif key == "integrity":
                algorithm, _, digest = value.partition("-")
                assert algorithm == "sha512"
                assert len(base64.b64decode(digest, validate=True)) == 64
            else:
                assert key == "suite"


def test_every_runtime_has_its_image() -> None:
    of_builds = {"go", "python-build", "node-build"}
    assert {runtime.image for runtime in RUNTIMES.values()} | {"base"} | of_builds == set(
        IMAGE_NAMES
    )


def test_an_image_stands_after_those_it_needs() -> None:
    order = list(RECIPES)
    for name, recipe in RECIPES.items():
        assert all(order.index(needed) < order.index(name) for needed in recipe.needs)


def test_no_dockerfile_needs_buildkit() -> None:
    for dockerfile in recipes.folder().glob("*/Dockerfile"):
        text = dockerfile.read_text()
        assert not re.search(r"^# *syntax|--mount|<<|--chmod|--link", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "stale"),
    [
        ("python/bootstrap.py", {"python", "python-build"}),
        ("js/bootstrap.mjs", {"node", "node-build", "deno", "bun"}),
        ("go/alyx/serve.go", {"go"}),
        ("base/init.c", set(IMAGE_NAMES)),
        ("toolbox/rootfs", set(RECIPES)),
    ],
)
def test_a_changed_file_makes_stale_what_is_built_from_it(
    edited: Callable[..., Path], path: str, stale: set[str]
) -> None:
    assert stale_in(edited(path)) == stale


def test_a_changed_pin_makes_its_image_stale(edited: Callable[..., Path]) -> None:
    version = recipes.pins(recipes.folder())["deno"]["version"]
    assert stale_in(edited("versions.toml", old=version, new="99.0.0")) == {"deno"}


def test_a_comment_among_the_pins_makes_nothing_stale(edited: Callable[..., Path]) -> None:
    assert stale_in(edited("versions.toml")) == set()


def test_modes_in_the_context_do_not_depend_on_the_checkout(
    tmp_path: Path, edited: Callable[..., Path], ca_bundle: Path
) -> None:
    root = edited("toolbox/rootfs")
    for path in root.rglob("*"):
        path.chmod(0o700)
    ca_bundle.chmod(0o600)
    context = tmp_path / "context"
    context.mkdir()
    recipes.write_context("toolbox", root, context, ca_bundle=ca_bundle)
    modes = {path.name: path.stat().st_mode & 0o777 for path in context.iterdir()}
    assert modes["rootfs"] == modes["fetch-npm"] == 0o755
    assert modes["Dockerfile"] == modes["ca-bundle.crt"] == 0o644


def test_the_ca_bundle_goes_into_the_toolbox_only(tmp_path: Path, ca_bundle: Path) -> None:
    holders = set()
    for name in RECIPES:
        context = tmp_path / name
        context.mkdir()
        recipes.write_context(name, recipes.folder(), context, ca_bundle=ca_bundle)
        if any(path.read_bytes() == ca_bundle.read_bytes() for path in context.glob("*.*")):
            holders.add(name)
    assert holders == {"toolbox"}


def test_all_are_built_in_order_and_a_second_build_does_nothing(build) -> None:
    store = ImageStore()
    first, second, *others = build(store)
    assert (first, second) == ("toolbox", "base")
    assert sorted(others) == sorted(set(RECIPES) - {"toolbox", "base"})
    assert build(store) == []
    assert [status.state for status in catalog.status(store)] == ["ready"] * len(IMAGE_NAMES)


def test_only_what_is_asked_and_what_it_needs_is_built(build) -> None:
    assert build(ImageStore(), "binary") == ["toolbox", "base", "binary"]


def test_a_builder_that_was_removed_is_not_rebuilt_for_nothing(build) -> None:
    store = ImageStore()
    build(store)
    store.remove_image(reference("toolbox"))
    assert build(store) == []


def test_an_image_that_is_out_of_date_is_rebuilt_and_its_like_are_not(build) -> None:
    store = ImageStore()
    build(store)
    old = store.held[reference("deno")]
    store.held[reference("deno")] = Image(
        id=old.id, tags=old.tags, labels=dict(old.labels) | {LABEL_INPUTS: "0"}, size=old.size
    )
    with pytest.raises(RuntimeNotAvailableError, match="sandbox images build deno"):
        catalog.require(store, "deno")
    assert build(store) == ["deno"]
    assert catalog.require(store, "deno") == store.held[reference("deno")]


def test_another_base_rebuilds_and_the_same_does_not(build) -> None:
    store = ImageStore()
    assert store.image(reference("base")) is None
    build(store, "python")
    assert build(store, "python", base=DEBIAN) == []
    assert build(store, "python", base="debian:trixie-slim") == ["toolbox", "base", "python"]
    assert store.build_args["toolbox"]["BASE"] == "debian:trixie-slim"
    assert store.held[reference("python")].labels[LABEL_BASE] == "debian:trixie-slim"
    assert build(store, "python") == []


def test_force_rebuilds_with_debian_s_updates(build) -> None:
    store = ImageStore()
    build(store, "python")
    before = store.build_args["toolbox"]["REFRESH"]
    assert build(store, "python", force=True) == ["toolbox", "base", "python"]
    assert store.build_args["toolbox"]["REFRESH"] != before


def test_a_step_that_fails_is_raised_and_the_next_build_goes_on_from_there(build) -> None:
    class Failing(ImageStore):
        def build_image(self, context: Path, **options: Any) -> Iterator[str]:
            if options["tag"] == reference("node") and not self.held.get(reference("python")):
                raise ImageBuildError("no network")
            return super().build_image(context, **options)

    store = Failing()
    with pytest.raises(ImageBuildError, match="no network"):
        build(store, "node")
    build(store, "python")
    assert build(store, "node") == ["node"]


def test_progress_tells_what_is_built_and_what_is_current(build) -> None:
    store = ImageStore()
    build(store, "base")
    events: list[image_builder.Progress] = []
    build(store, "base", "python", on_progress=events.append)
    assert [(event.image, event.event, event.text) for event in events] == [
        ("base", "current", ""),
        ("python", "building", ""),
        ("python", "output", "Step 1"),
        ("python", "built", ""),
    ]
    assert events[-1].size == 7


def test_proxies_of_the_host_reach_the_build(ca_bundle: Path) -> None:
    store = ImageStore()
    environment = {"https_proxy": "http://proxy:3128", "NO_PROXY": "", "SECRET": "canary"}
    image_builder.build(store, ["base"], ca_bundle=ca_bundle, environment=environment)
    assert store.build_args["base"] == {"https_proxy": "http://proxy:3128"}


def test_an_unknown_name_is_answered_with_the_names(build) -> None:
    with pytest.raises(RuntimeNotAvailableError, match="base, python, node, deno, bun, go, binary"):
        build(ImageStore(), "ruby")


def test_the_toolbox_is_not_for_functions(build) -> None:
    with pytest.raises(RuntimeNotAvailableError, match="no image called toolbox"):
        build(ImageStore(), "toolbox")


def test_another_architecture_is_refused(build) -> None:
    with pytest.raises(RuntimeNotAvailableError, match="aarch64"):
        build(ImageStore(architecture="aarch64"), "python")


def test_without_mmdebstrap_the_error_names_both_ways_out(build, monkeypatch) -> None:
    store = ImageStore()
    store.held.clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ImageBuildError) as raised:
        build(store, "base")
    assert "mmdebstrap" in raised.value.hint
    assert "--base debian:trixie-slim" in raised.value.hint


def test_a_failing_mmdebstrap_shows_the_end_of_what_it_said(
    build, monkeypatch, tmp_path: Path
) -> None:
    store = ImageStore()
    store.held.clear()
    tool = tmp_path / "mmdebstrap"
    tool.write_text(
        "#!/bin/sh\nfor arg; do last=$arg; done\n: >$last\necho 'E: no mirror'\nexit 1\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ImageBuildError) as raised:
        build(store, "base")
    assert raised.value.details["log"] == "E: no mirror"
    assert store.built == []
