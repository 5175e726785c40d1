"""The recipes of the project's images: files, pinned versions, and the images they build on.

Pure: it reads files of the package `sandbox_images`, and asks no engine.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL_IMAGE: Final = "alyx.sandbox.image"
LABEL_INPUTS: Final = "alyx.sandbox.inputs"
LABEL_VERSION: Final = "org.opencontainers.image.version"
LABEL_TITLE: Final = "org.opencontainers.image.title"
# The Debian image at the bottom; the same for all images of one build.
LABEL_BASE: Final = "org.opencontainers.image.base.name"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The parts of an image besides its own folder: images it needs, files of other folders."""

    needs: tuple[str, ...] = ("toolbox", "base")
    shared: tuple[str, ...] = ()


# In build order.
RECIPES: Final[Mapping[str, Recipe]] = {
    "toolbox": Recipe(needs=()),
    "base": Recipe(needs=("toolbox",)),
    "python": Recipe(),
    "node": Recipe(shared=("js/bootstrap.mjs",)),
    "deno": Recipe(shared=("js/bootstrap.mjs",)),
    "bun": Recipe(shared=("js/bootstrap.mjs",)),
    "go": Recipe(),
    "binary": Recipe(),
    # These have the installers, which the runtimes' images leave out.
    "python-build": Recipe(needs=("toolbox", "base", "python")),
    "node-build": Recipe(needs=("toolbox", "base", "node")),
}
# The toolbox only builds the others.
IMAGE_NAMES: Final = tuple(name for name in RECIPES if name != "toolbox")


def reference(name: str) -> str:
    """The tag of the image called `name`."""
    return f"alyx-sandbox/{name}:latest"


@functools.cache
def folder() -> Path:
    """The folder of Dockerfiles, bootstraps and pinned versions."""
    # Not importlib.resources: it would cost every start of the command line several milliseconds.
    file = importlib.import_module("sandbox_images").__file__
    assert file is not None  # noqa: S101 - a regular package has one
    return Path(file).parent


@functools.cache
def pins(root: Path) -> Mapping[str, Mapping[str, str]]:
    """The pinned versions and digests of `versions.toml` in `root`, by image."""
    return tomllib.loads((root / "versions.toml").read_text())


@functools.cache
def inputs_digest(name: str, root: Path) -> str:
    """Digest (sha256, hex) of everything that decides what is in the image: the files of its
    context, its pinned versions, and the same of the images it needs.

    The Debian image to build from and the CA bundle are the operator's, and not part of it.
    """
    digest = hashlib.sha256()
    for path, source in sorted(context_files(name, root).items()):
        content = hashlib.sha256(source.read_bytes()).hexdigest()
        digest.update(json.dumps([path, content]).encode())
    digest.update(json.dumps(pins(root).get(name, {}), sort_keys=True).encode())
    for needed in RECIPES[name].needs:
        digest.update(inputs_digest(needed, root).encode())
    return digest.hexdigest()


def build_args(name: str, root: Path) -> dict[str, str]:
    """The pins of an image, as arguments of its Dockerfile."""
    return {key.upper(): value for key, value in pins(root).get(name, {}).items()}


def labels(name: str, root: Path, *, base: str) -> dict[str, str]:
    """The labels that an image gets; `base` is the Debian image that it is made from."""
    # An image without a pin of its own has the version of the runtime that it is made from.
    made_from = (name, *reversed(RECIPES[name].needs))
    versions = (pins(root).get(each, {}).get("version") for each in made_from)
    version = next(filter(None, versions), pins(root)["toolbox"]["suite"])
    return {
        LABEL_TITLE: f"alyx-sandbox {name}",
        LABEL_VERSION: version,
        LABEL_BASE: base,
        LABEL_IMAGE: name,
        LABEL_INPUTS: inputs_digest(name, root),
    }


def context_files(name: str, root: Path) -> dict[str, Path]:
    """The files of an image's build context, by their path in it."""
    own = root / name
    files = {
        str(path.relative_to(own)): path
        for path in own.rglob("*")
        # Installing a wheel compiles the bootstrap beside it.
        if path.is_file() and path.parent.name != "__pycache__"
    }
    return files | {Path(path).name: root / path for path in RECIPES[name].shared}


def write_context(name: str, root: Path, directory: Path, *, ca_bundle: Path) -> None:
    """Lay out an image's build context in the empty `directory`.

    Modes do not depend on how the files got here (umask, wheel): what has a `#!` is executable.
    """
    for path, source in context_files(name, root).items():
        content = source.read_bytes()
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if content.startswith(b"#!") else 0o644)
    if name == "toolbox":
        shutil.copyfile(ca_bundle, directory / "ca-bundle.crt")
        (directory / "ca-bundle.crt").chmod(0o644)
