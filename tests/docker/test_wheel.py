"""The wheel carries everything: images, bootstraps, data. Installed elsewhere, it works alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.images import catalog

if TYPE_CHECKING:
    from sandbox.engine.docker.engine import DockerEngine

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that the tree stays clean."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, tracked)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", target, source],
        check=True,
        capture_output=True,
    )
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_does_not_claim_other_people_s_names(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {
        "sandbox", "sandbox_cli", "sandbox_images",
    }  # fmt: skip


def test_the_wheel_has_every_file_of_its_folders_and_no_other(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "ls-files", "sandbox", "cli", "images"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert len(tracked) > 200
    names = (re.sub(r"^(cli|images)/", r"sandbox_\1/", name) for name in tracked)
    assert packed == set(names)


@pytest.mark.timeout(600)
def test_installed_elsewhere_it_builds_images_and_invokes(
    wheel: Path, tmp_path: Path, store: Path, engine: DockerEngine
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    subprocess.run(
        [environment / "bin/pip", "--quiet", "install", "-c", ROOT / "constraints.txt", wheel],
        check=True,
    )
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "hi.py").write_text("def handler(ctx): return ctx.input\n")
    sandbox = environment / "bin/sandbox"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run_options = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True,
                   "env": clean | {"SANDBOX_STORE": str(store)}}  # fmt: skip
    # Removed first, so that something is really built: the smallest that nothing else needs.
    subprocess.run(["docker", "image", "rm", "--force", "alyx-sandbox/binary:latest"], check=True,
                   capture_output=True)  # fmt: skip
    subprocess.run([sandbox, "images", "build", "python", "binary"], **run_options)
    listed = subprocess.run([sandbox, "images", "list", "--json"], **run_options).stdout
    states = {image["name"]: image["state"] for image in json.loads(listed)}
    assert states["binary"] == states["python"] == "ready"
    # The tree sees the same images: how files got here does not change what they are.
    seen = {status.name: status.state for status in catalog.status(engine)}
    assert seen["binary"] == seen["python"] == "ready"
    answer = subprocess.run(
        [sandbox, "invoke", "hi", "-d", '{"a": 1}', "--json"], **run_options
    ).stdout
    assert json.loads(answer)["output"] == {"a": 1}
