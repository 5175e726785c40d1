"""The wheel carries everything: images, bootstraps, data. Installed elsewhere, it works alone."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.images import catalog

if TYPE_CHECKING:
    from sandbox.engine.docker.engine import DockerEngine

ROOT = Path(__file__).parent.parent.parent


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
