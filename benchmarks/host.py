"""The function without any isolation: a subprocess of the host, as Alyx runs it today.

The interpreters are copied from the images once, so that only the isolation differs; Python's needs
the libraries and the loader of its image. The host's own Python, if there
is one, is measured too.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.context import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.deploy.deployer import Deployment

HOST_PYTHON: Final = Path("/usr/bin/python3")
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "NODE_ENV": "production",
    "PYTHONDONTWRITEBYTECODE": "1", "DENO_NO_UPDATE_CHECK": "1", "HOME": "/tmp",
    "BUN_RUNTIME_TRANSPILER_CACHE_PATH": "0",
}  # fmt: skip


def bare(deployment: Deployment, cache: Path) -> dict[str, tuple[Callable[[], None], str]]:
    """Ways to run a stdio function as a subprocess, each with a description.

    Files from images are kept in `cache`. A runtime that does not run on this host is left out.
    """
    function, files = deployment.function, deployment.bundle.path
    entry = files / function.entrypoint
    found: dict[str, tuple[list[str | Path], str]] = {}
    if function.runtime == "go":
        found["bare"] = [entry], "the compiled program"
    else:
        root = image_files(deployment.image, cache)
        if function.runtime == "python":
            found["bare"] = [*image_python(root), entry], "the image's Python"
            if HOST_PYTHON.exists():
                found["bare host"] = [HOST_PYTHON, entry], "the host's Python"
        else:
            program = root / "usr/local/bin" / function.runtime
            arguments = {"deno": ("run", "--quiet", "--allow-all"), "bun": ("run",)}
            found["bare"] = (
                [program, *arguments.get(function.runtime, ()), entry],
                "the image's interpreter",
            )
    ways = {name: (process(command), note) for name, (command, note) in found.items()}
    return {name: way for name, way in ways.items() if _works(way[0])}


def process(
    command: Sequence[str | Path], *, environment: dict[str, str] | None = None
) -> Callable[[], None]:
    """Run a command that reads the request and answers; raises if it does not."""

    def run() -> None:
        ended = subprocess.run(
            command,
            input=REQUEST + "\n",
            env=_ENVIRONMENT if environment is None else environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended
        answers = [line for line in ended.stdout.splitlines() if '"success"' in line]
        assert answers, ended
        assert json.loads(answers[-1])["success"], ended

    return run


def image_python(root: Path) -> list[str]:
    """The command of an image's Python, with the image's own loader and libraries."""
    loader = next(root.glob("usr/lib*/**/ld-linux-*.so.*"))
    libraries = ":".join(str(path) for path in root.glob("usr/lib/*-linux-gnu"))
    program = (root / "usr/bin/python3").resolve()
    return [
        "/usr/bin/env", f"PYTHONHOME={root / 'usr'}",
        str(loader), "--library-path", libraries, str(program),
    ]  # fmt: skip


def image_files(image: str, cache: Path) -> Path:
    """The files of an image, in a directory of their own; extracted once."""
    root = cache / image.removeprefix("sha256:")[:16]
    if root.exists():
        return root
    unfinished = root.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["docker", "create", "--network", "none", image, "/"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    try:
        with subprocess.Popen(["docker", "export", made], stdout=subprocess.PIPE) as export:
            subprocess.run(
                ["tar", "--extract", "--exclude", "dev/*", "--directory", unfinished],
                stdin=export.stdout, check=True,
            )  # fmt: skip
    finally:
        subprocess.run(["docker", "rm", made], capture_output=True, check=True)
    return unfinished.rename(root)


def _works(way: Callable[[], None]) -> bool:
    try:
        way()
    except (OSError, AssertionError):
        return False
    return True


def cli_environment(store: Path, functions: Path) -> dict[str, str]:
    """The environment of a command line that shares the store."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SANDBOX_")}
    return kept | {
        "SANDBOX_STORE": str(store), "SANDBOX_FUNCTIONS": str(functions),
        "SANDBOX_POOL__MIN_WARM": "1", "SANDBOX_POOL__MAX_WARM": "1",
    }  # fmt: skip
