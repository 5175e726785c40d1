"""The installers: their images, shell scripts, and the variables for the runtime.

A script runs in /tmp/work, a copy of the files that it may read, and leaves its result in /tmp/out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.runtimes import FUNCTION_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.functions.dependencies import Installer

# The directory of a bundle for files that are not the author's and have no prescribed place.
ALYX_DIR: Final = ".alyx"
_PYTHON: Final = f"{ALYX_DIR}/python"
_DENO: Final = f"{ALYX_DIR}/deno"

# The output of the steps goes to stderr: stdout is for the archive.
_PROLOGUE: Final = """
set -eu
mkdir -p /tmp/work /tmp/out /tmp/home
cp -R /src/. /tmp/work
[ ! -d /request ] || cp -R /request/. /tmp/work
cd /tmp/work
{
"""
_EPILOGUE: Final = """
} >&2
exec tar -cf - -C /tmp/out .
"""

# Byte code is compiled here, because functions cannot write it. It is never compared with its
# source, because the source cannot change.
_PIP: Final = f"""
export PYTHONUSERBASE=/tmp/out/{_PYTHON}
target=$(python3 -c 'import site; print(site.getusersitepackages())')
mkdir -p "$target"
python3 -m pip install --target "$target" --no-compile --requirement .alyx-requirements.txt
python3 -m compileall -qq -s /tmp/out -p {FUNCTION_DIR} \
    --invalidation-mode unchecked-hash "$target" || true
"""
_NPM: Final = """
case $LOCKED in
true) npm ci $OMIT ;;
*) npm install $OMIT --no-save "$@" ;;
esac
[ ! -e node_modules ] || mv node_modules /tmp/out/
"""
_BUN: Final = """
frozen=
[ "$LOCKED" = false ] || frozen=--frozen-lockfile
[ -e package.json ] || echo '{}' >package.json
if [ $# -gt 0 ]; then bun add --no-save "$@"; else bun install $OMIT $frozen; fi
[ ! -e node_modules ] || mv node_modules /tmp/out/
"""
# Functions run without a lock file, because Deno would write to it. So only the chosen version of
# each package stays known, and Deno chooses it again.
_DENO_PRUNE: Final = """
const prune = (directory) => {
  const entries = [...Deno.readDirSync(directory)];
  const here = new Set(entries.map((entry) => entry.name));
  if (!here.has("registry.json")) {
    for (const { name, isDirectory } of entries) if (isDirectory) prune(`${directory}/${name}`);
    return;
  }
  const file = `${directory}/registry.json`;
  const known = JSON.parse(Deno.readTextFileSync(file));
  const kept = (object, keep) => Object.fromEntries(Object.entries(object ?? {}).filter(keep));
  known.versions = kept(known.versions, ([version]) => here.has(version));
  known["dist-tags"] = kept(known["dist-tags"], ([, version]) => here.has(version));
  Deno.writeTextFileSync(file, JSON.stringify(known));
};
try { prune(`${Deno.env.get("DENO_DIR")}/npm`); } catch (error) {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}
"""
_DENO_SCRIPT: Final = f"""
export DENO_DIR=/tmp/out/{_DENO}
lock=--no-lock
[ "$LOCKED" = false ] || lock=--frozen
if [ -e deno.json ] || [ -e deno.jsonc ] || [ -e package.json ]; then deno install $lock; fi
[ $# -eq 0 ] || deno cache $lock "$@"
[ ! -e node_modules ] || mv node_modules /tmp/out/
deno eval --no-lock --no-config '{_DENO_PRUNE}'
rm -rf "$DENO_DIR"/gen "$DENO_DIR"/node_compat_bin "$DENO_DIR"/*_cache_v*
"""


@dataclass(frozen=True, kw_only=True)
class InstallerInfo:
    """One installer. `runtime_env` tells the runtime where the dependencies are.

    `build_env` does the same for a build in /tmp/work.
    """

    image: str
    script: str
    env: Mapping[str, str]
    registries: tuple[str, ...]
    runtime_env: Mapping[str, str] = field(default_factory=dict)
    build_env: Mapping[str, str] = field(default_factory=dict)


_NPM_ENV: Final = {
    "NPM_CONFIG_AUDIT": "false",
    "NPM_CONFIG_FUND": "false",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
    "NPM_CONFIG_CACHE": "/tmp/npm",  # noqa: S108 - the container's own
    "NPM_CONFIG_LOGLEVEL": "warn",
    "NPM_CONFIG_FETCH_RETRIES": "1",
}

INSTALLER_INFO: Final[Mapping[Installer, InstallerInfo]] = {
    "pip": InstallerInfo(
        image="python-build",
        script=_PIP,
        env={
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_INPUT": "1",
            "PIP_RETRIES": "1",
            "PIP_PROGRESS_BAR": "off",
        },
        registries=("pip",),
        # After the standard library, so that no dependency replaces a module of it.
        runtime_env={"PYTHONUSERBASE": f"{FUNCTION_DIR}/{_PYTHON}"},
        build_env={"PYTHONUSERBASE": f"/tmp/work/{_PYTHON}"},  # noqa: S108
    ),
    "npm": InstallerInfo(image="node-build", script=_NPM, env=_NPM_ENV, registries=("npm",)),
    "bun": InstallerInfo(
        image="bun",
        script=_BUN,
        env={"DO_NOT_TRACK": "1", "BUN_INSTALL_CACHE_DIR": "/tmp/bun"},  # noqa: S108
        registries=("npm",),
    ),
    "deno": InstallerInfo(
        image="deno",
        script=_DENO_SCRIPT,
        env={"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
        registries=("npm", "jsr"),
        runtime_env={"DENO_DIR": f"{FUNCTION_DIR}/{_DENO}"},
        build_env={"DENO_DIR": f"/tmp/work/{_DENO}"},  # noqa: S108
    ),
}


def wrapped(steps: str) -> str:
    """A shell script that runs `steps` and then writes /tmp/out to stdout as an archive."""
    return f"{_PROLOGUE}{steps}{_EPILOGUE}"
