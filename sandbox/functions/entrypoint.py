"""Chooses the entrypoint of a function and the runtime that runs it. Pure: see `Files`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

from sandbox.runtimes import RUNTIMES, Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.functions.manifest import Manifest

# A directory with one of these files is a function. The first one found counts.
ENTRY_FILES: Final = (
    "mod.ts",
    "main.ts",
    *(f"index{suffix}" for suffix in (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".tsx")),
    "index.py",
    "main.py",
    "main.go",
    "index.go",
)
_BUN_MARKERS: Final = ("bunfig.toml", "bun.lock")
_DENO_MARKERS: Final = ("deno.json", "deno.jsonc")
_SCRIPTS: Final = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts")
# Node strips types, but does not read JSX.
_OTHERS: Final = {
    ".py": Runtime.PYTHON,
    ".go": Runtime.GO,
    ".tsx": Runtime.BUN,
    ".jsx": Runtime.BUN,
}


class Files(Protocol):
    """The contents of a function's directory."""

    def has(self, name: str) -> bool:
        """Whether there is a file, or a link, of that name."""

    def executables(self) -> Sequence[str]:
        """The names of the executable files at its top."""


class NoEntrypointError(Exception):
    """No entrypoint was found; `field` is the manifest's field that would name it."""

    def __init__(self, field: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Entry:
    """An entrypoint and its runtime. `source` is the file to read if a build makes `path`."""

    path: str
    runtime: Runtime
    source: str | None


def detect(files: Files) -> Entry | None:
    """The entrypoint of a directory without a manifest, or None: it is no function."""
    for name in ENTRY_FILES:
        runtime = runtime_of(name, files) if files.has(name) else None
        if runtime is not None:
            return Entry(name, runtime, name)
    return None


def runtime_of(name: str, files: Files) -> Runtime | None:
    """The runtime of a file, by its ending and by the files beside it."""
    suffix = PurePosixPath(name).suffix
    if suffix not in _SCRIPTS:
        return _OTHERS.get(suffix)
    if any(files.has(marker) for marker in _BUN_MARKERS):
        return Runtime.BUN
    if any(files.has(marker) for marker in _DENO_MARKERS):
        return Runtime.DENO
    return Runtime.NODE


def choose(manifest: Manifest, files: Files) -> Entry:
    """The entrypoint that a manifest names, else the one that is found.

    Raises:
        NoEntrypointError: there is none.
    """
    found = _find(manifest.runtime, files)
    # Go is compiled from its sources, whatever else is built.
    builds = manifest.build is not None and manifest.runtime is not Runtime.GO
    output = manifest.build.output if manifest.build is not None and builds else None
    path = manifest.entrypoint or output
    if path is None:
        if found is None:
            raise _nothing_found(manifest.runtime)
        return found
    runtime = manifest.runtime or runtime_of(path, files) or (found.runtime if found else None)
    if runtime is None:
        raise NoEntrypointError(
            "entrypoint",
            f"which runtime runs {path!r} cannot be told from its ending",
            f"add `runtime`: one of {', '.join(Runtime)}",
        )
    _check_suffix(path, runtime, built=path == output)
    return Entry(
        path, runtime, (found.path if found else None) if is_built(manifest, path) else path
    )


def is_built(manifest: Manifest, path: str) -> bool:
    """Whether the manifest's build makes the file at `path`, which need not be there yet."""
    return manifest.build is not None and PurePosixPath(path).is_relative_to(manifest.build.output)


def _find(runtime: Runtime | None, files: Files) -> Entry | None:
    """The first entry file that `runtime` can run; without a runtime, the first one."""
    if runtime is None:
        return detect(files)
    if runtime is Runtime.BINARY:
        names = files.executables()
        return Entry(names[0], runtime, names[0]) if len(names) == 1 else None
    for name in ENTRY_FILES:
        if PurePosixPath(name).suffix in RUNTIMES[runtime].suffixes and files.has(name):
            return Entry(name, runtime, name)
    return None


def _check_suffix(path: str, runtime: Runtime, *, built: bool) -> None:
    """Refuse a file of another runtime, and a build output that no build makes."""
    suffix, suffixes = PurePosixPath(path).suffix, RUNTIMES[runtime].suffixes
    if runtime is Runtime.BINARY or suffix in suffixes:
        return
    others = [other for other in Runtime if suffix in RUNTIMES[other].suffixes]
    if others:
        raise NoEntrypointError(
            "entrypoint",
            f"{path!r} is no file for the runtime {runtime}",
            f"set `runtime` to {' or '.join(others)}, or name a file ending in "
            f"{' or '.join(suffixes)}",
        )
    if built:
        raise NoEntrypointError(
            "build",
            f"the build's output {path!r} is no file that {runtime} runs",
            "add `entrypoint`: the file inside it that is run",
        )


def _nothing_found(runtime: Runtime | None) -> NoEntrypointError:
    if runtime is None:
        names = "index.js, index.ts, index.py, main.go"
        return NoEntrypointError(
            "entrypoint", "there is no entry file here", f"add one such as {names}, or `entrypoint`"
        )
    if runtime is Runtime.BINARY:
        return NoEntrypointError(
            "runtime",
            "the entrypoint cannot be told: there is not exactly one executable file",
            "add `entrypoint`, and make that file executable: chmod +x",
        )
    names = ", ".join(
        name for name in ENTRY_FILES if PurePosixPath(name).suffix in RUNTIMES[runtime].suffixes
    )
    return NoEntrypointError(
        "runtime",
        f"there is no entry file for the runtime {runtime}",
        f"add `entrypoint`, or {names}",
    )
