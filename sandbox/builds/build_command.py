"""The manifest's `build`: the image it runs in, its script, environment and registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandbox.builds.installers import INSTALLER_INFO
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

# Commands that need a certain image, whatever the function's runtime.
_BY_COMMAND: Final[Mapping[str, str]] = {
    **dict.fromkeys(("go",), "go"),
    **dict.fromkeys(("node", "npm", "npx"), "node-build"),
    **dict.fromkeys(("bun", "bunx"), "bun"),
    **dict.fromkeys(("deno",), "deno"),
    **dict.fromkeys(("python", "python3", "pip", "pip3"), "python-build"),
}
_BY_RUNTIME: Final[Mapping[Runtime, str]] = {
    Runtime.NODE: "node-build",
    Runtime.BUN: "bun",
    Runtime.DENO: "deno",
    Runtime.PYTHON: "python-build",
    Runtime.GO: "go",
    # The only compiler here is Go's.
    Runtime.BINARY: "go",
}
_PATH: Final = "/tmp/work/node_modules/.bin:/usr/local/bin:/usr/bin:/bin"  # noqa: S108

# The Go toolchain needs a writable cache. Links to its files are enough.
# The shell exits with 127 if there is no such command.
STEP: Final = """
[ ! -d /usr/local/go/cache ] || cp -Rs /usr/local/go/cache /tmp/cache
status=0
"$@" || status=$?
if [ $status -eq 127 ] && [ -e "$BUILD_OUTPUT" ]; then
    echo "nothing here can build it; the $BUILD_OUTPUT that came with it is used"
elif [ $status -ne 0 ]; then
    exit $status
fi
if [ ! -e "$BUILD_OUTPUT" ]; then
    echo "the build made no $BUILD_OUTPUT"
    exit 1
fi
mkdir -p "/tmp/out/$(dirname "$BUILD_OUTPUT")"
mv "$BUILD_OUTPUT" "/tmp/out/$BUILD_OUTPUT"
"""


def step_image(runtime: Runtime, command: str) -> str:
    """The image that `command` runs in, for a function of `runtime`."""
    return _BY_COMMAND.get(command, _BY_RUNTIME[runtime])


def step_env(image: str) -> dict[str, str]:
    """The environment of a build step in `image`."""
    env = {"PATH": _PATH}
    for info in INSTALLER_INFO.values():
        if info.image == image:
            env |= info.env
    return env


def step_registries(image: str) -> tuple[str, ...]:
    """The tools of `image` whose registries a build step may reach."""
    tools = (info.registries for info in INSTALLER_INFO.values() if info.image == image)
    return next(tools, ())
