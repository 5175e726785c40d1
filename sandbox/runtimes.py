"""The table of runtimes: image, command, and the entry files by which each is recognised."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Interface = Literal["stdio", "handler"]

# Where things are inside every container.
FUNCTION_DIR: Final = PurePosixPath("/function")
SUPPORT_DIR: Final = PurePosixPath("/opt/alyx")
TMP_DIR: Final = "/tmp"  # noqa: S108 - the container's own
INIT: Final = str(SUPPORT_DIR / "init")


class Runtime(enum.StrEnum):
    """The runtimes that a manifest can name."""

    DENO = "deno"
    NODE = "node"
    BUN = "bun"
    PYTHON = "python"
    GO = "go"
    BINARY = "binary"


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """How one runtime runs. `image` is the short name of the image that runs it."""

    image: str
    interpreter: tuple[str, ...]
    bootstrap: str | None
    env: Mapping[str, str]
    suffixes: tuple[str, ...]
    # The option that loads the bootstrap, where the function has to be the main module.
    preload: str = ""

    def command(self, entrypoint: str, interface: Interface) -> tuple[str, ...]:
        """The process to run for `entrypoint`, a path relative to the function's directory."""
        target = str(FUNCTION_DIR / entrypoint)
        if interface == "handler" and self.bootstrap is not None:
            bootstrap = str(SUPPORT_DIR / self.bootstrap)
            if self.preload:
                return (*self.interpreter, f"{self.preload}={bootstrap}", target, target)
            return (*self.interpreter, bootstrap, target)
        return (*self.interpreter, target)


# HOME and caches point at the only writable place; a function's own uid has no home.
_COMMON_ENV: Final = {"HOME": TMP_DIR, "TMPDIR": TMP_DIR, "LANG": "C.UTF-8"}

RUNTIMES: Final[Mapping[Runtime, RuntimeInfo]] = {
    Runtime.DENO: RuntimeInfo(
        image="deno",
        # The container is the boundary; a permission prompt inside it would only hang.
        interpreter=("deno", "run", "--quiet", "--allow-all", "--no-prompt", "--no-lock"),
        bootstrap="bootstrap.mjs",
        env=_COMMON_ENV
        | {"DENO_DIR": f"{TMP_DIR}/deno", "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
        suffixes=(".ts", ".mts", ".js", ".mjs", ".tsx", ".jsx"),
        # Deno looks for deno.json and package.json from the main module on, nowhere else.
        preload="--preload",
    ),
    Runtime.NODE: RuntimeInfo(
        image="node",
        interpreter=("node",),
        bootstrap="bootstrap.mjs",
        env=_COMMON_ENV | {"NODE_ENV": "production"},
        suffixes=(".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"),
    ),
    Runtime.BUN: RuntimeInfo(
        image="bun",
        # Without --no-install, bun answers a missing module by downloading it.
        interpreter=("bun", "run", "--no-install"),
        bootstrap="bootstrap.mjs",
        env=_COMMON_ENV | {"BUN_RUNTIME_TRANSPILER_CACHE_PATH": "0", "DO_NOT_TRACK": "1"},
        suffixes=(".ts", ".tsx", ".mts", ".cts", ".js", ".jsx", ".mjs", ".cjs"),
    ),
    Runtime.PYTHON: RuntimeInfo(
        image="python",
        interpreter=("python3",),
        bootstrap="bootstrap.py",
        env=_COMMON_ENV | {"PYTHONDONTWRITEBYTECODE": "1"},
        suffixes=(".py",),
    ),
    # Compiled ahead in the `go` image (see sandbox.builds), run as a binary.
    Runtime.GO: RuntimeInfo(
        image="binary", interpreter=(), bootstrap=None, env=_COMMON_ENV, suffixes=(".go",)
    ),
    Runtime.BINARY: RuntimeInfo(
        image="binary", interpreter=(), bootstrap=None, env=_COMMON_ENV, suffixes=()
    ),
}
