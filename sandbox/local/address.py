"""Where the socket of a functions directory is; found without reading the settings.

A socket's name is a digest of everything that decides how an invocation runs: the version of this
package, the functions directory, the settings file with its content, and some variables. So a
client with other settings finds no socket, and runs the function itself.

    $XDG_RUNTIME_DIR/alyx-sandbox/     mode 0700; else sockets/ in the user's cache directory
      DIGEST.sock                      mode 0600
      DIGEST.lock                      locked by the serving process
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox import __version__
from sandbox.config.environment import (
    SETTINGS_FILE,
    cache_directory,
    settings_from_environment,
    with_absolute_paths,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Variables that are no settings, but decide which engine is used and where the store is.
_OTHERS: Final = (
    "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_TLS_HOSTNAME",
    "DOCKER_CONTEXT", "HOME", "XDG_CACHE_HOME",
)  # fmt: skip


@dataclass(frozen=True)
class Address:
    """A socket: its directory, and its name without an ending."""

    directory: Path
    name: str

    @property
    def socket(self) -> Path:
        return self.directory / f"{self.name}.sock"


def find_address(
    functions: Path,
    settings_file: Path | None,
    environment: Mapping[str, str],
    *,
    default_settings: Path = Path(SETTINGS_FILE),
) -> Address:
    """The address of the process that serves `functions` with these settings, if there is one.

    Raises:
        InvalidSettingsError: a variable of the environment cannot be read.
    """
    settings = settings_file or default_settings
    identity = (
        __version__,
        os.path.realpath(functions),
        *_file(settings),
        with_absolute_paths(settings_from_environment(environment), Path.cwd()),
        {name: environment[name] for name in _OTHERS if name in environment},
    )
    # ASCII, so that file names that are not UTF-8 can be hashed, too.
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode("ascii")).hexdigest()
    return Address(_directory(environment), digest[:32])


def _directory(environment: Mapping[str, str]) -> Path:
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "alyx-sandbox"
    return cache_directory(environment) / "sockets"


def _file(path: Path) -> Iterator[str]:
    """The path of a settings file and the digest of its content; nothing if there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    yield os.path.realpath(path)
    yield hashlib.sha256(content).hexdigest()
