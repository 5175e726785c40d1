"""`Function`: what discovery finds, made from a manifest and the files beside it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Final

from sandbox.documents.problems import Problem, Severity, has_errors
from sandbox.documents.untrusted_files import (
    FileRefusedError,
    check_hard_link,
    check_regular,
    read_regular,
    resolve_inside,
)
from sandbox.functions.entrypoint import Entry, NoEntrypointError, choose, is_built, runtime_of
from sandbox.functions.interface import detect_interface
from sandbox.runtimes import Interface, Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox.documents.yaml_reader import Node
    from sandbox.functions.manifest import Manifest

# A larger entry file is a bundler's output, and its manifest has to name the interface.
MAX_SOURCE_BYTES: Final = 1024 * 1024
_MANY_FILES: Final = 1000


@dataclass(frozen=True)
class Origin:
    """The source of a function: a manifest, or only its files. `file` is shown to people."""

    function: str
    file: str
    node: Node | None = None

    def where(self, *path: str | int) -> str:
        """`file:line` of a field, or of the nearest one."""
        if self.node is None:
            return self.file
        line, _ = self.node.position(*path, key=True)
        return f"{self.file}:{line}"

    def problem(
        self, message: str, hint: str = "", *, at: str = "", severity: Severity = "error"
    ) -> Problem:
        """A problem of the field `at`, or of the function."""
        line = column = None
        if self.node is not None and at in self.node.children:
            line, column = self.node.position(at)
        return Problem(
            message=message,
            hint=hint,
            file=self.file,
            line=line,
            column=column,
            severity=severity,
            function=self.function,
        )


@dataclass(frozen=True)
class Description:
    """A manifest without errors, and its source. Without a manifest file, it has only defaults.

    `file` is the path of the manifest.
    """

    origin: Origin
    manifest: Manifest
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function, ready to be deployed.

    `source` is its directory, or with `single_file` the file itself; links on the way to it
    are resolved. `entrypoint` is a POSIX path inside it; a build may still have to make the file.
    `source_entrypoint` is the entry file among the sources, if there is one. Without a
    `manifest_file`, `manifest` has only defaults.
    """

    name: str
    runtime: Runtime
    entrypoint: str
    interface: Interface
    source: Path
    single_file: bool
    manifest: Manifest
    manifest_file: Path | None
    source_entrypoint: str | None
    origin: Origin = field(compare=False, repr=False)

    def where(self, *path: str | int) -> str:
        """The place of a field of the manifest, such as `functions/hello/function.yaml:7`."""
        return self.origin.where(*path)


class Folder:
    """A function's directory, as `sandbox.functions.entrypoint` asks for it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        """Whether there is a file, or a link, of that name."""
        try:
            return not stat.S_ISDIR((self._path / name).lstat().st_mode)
        except OSError:
            return False

    def executables(self) -> Sequence[str]:
        return self._executables

    @cached_property
    def _executables(self) -> list[str]:
        with os.scandir(self._path) as entries:
            return sorted(
                entry.name
                for entry in islice(entries, _MANY_FILES)
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mode & 0o111
            )


class Assembly:
    """Makes one function, and collects its problems in `problems`."""

    def __init__(self, description: Description, *, directory: Path) -> None:
        self.problems: list[Problem] = []
        self._origin = description.origin
        self._manifest = description.manifest
        self._manifest_file = description.file
        self._directory = directory

    def directory(self) -> Function | None:
        """The function of the whole directory, or None: see `problems`."""
        try:
            entry = choose(self._manifest, Folder(self._directory))
        except NoEntrypointError as error:
            self._error(error.field, error.message, error.hint)
            return None
        if not is_built(self._manifest, entry.path):
            self._check_file("entrypoint", entry.path, runtime=entry.runtime)
        return self._function(entry, source=self._directory)

    def single_file(self, name: str) -> Function | None:
        """The function of one file of the directory, or None: see `problems`."""
        for field_name in ("path", "build"):
            if getattr(self._manifest, field_name) is not None:
                self._error(
                    field_name,
                    f"`{field_name}` needs a directory, and {name!r} is a function of one file",
                    "put the file and this manifest, as function.yaml, into a directory",
                )
        if self._manifest.entrypoint not in (None, name):
            self._error("entrypoint", f"this manifest belongs to {name!r}", "remove `entrypoint`")
        folder = Folder(self._directory)
        runtime = self._manifest.runtime or runtime_of(name, folder)
        if runtime is None and name in folder.executables():
            runtime = Runtime.BINARY
        if runtime is None:
            self._error("runtime", f"no runtime runs {name!r}", "set `runtime`")
            return None
        self._check_file("entrypoint", name, runtime=runtime)
        return self._function(Entry(name, runtime, name), source=self._directory / name)

    def _function(self, entry: Entry, *, source: Path) -> Function | None:
        manifest = self._manifest
        if isinstance(manifest.dependencies, str):
            self._check_file("dependencies", manifest.dependencies)
        interface = manifest.interface or self._interface(entry)
        if has_errors(self.problems):
            return None
        return Function(
            name=self._origin.function,
            runtime=entry.runtime,
            entrypoint=entry.path,
            interface=interface,
            source=source,
            single_file=source != self._directory,
            manifest=manifest,
            manifest_file=self._manifest_file,
            source_entrypoint=entry.source,
            origin=self._origin,
        )

    def _check_file(self, at: str, path: str, *, runtime: Runtime | None = None) -> None:
        """Check a file that must exist inside the directory."""
        try:
            status = resolve_inside(self._directory, path).stat()
            check_regular(status)
            check_hard_link(status, owner=self._directory.stat().st_uid)
        except FileRefusedError as refused:
            self._error(at, f"{at} {path!r}: {refused.message}", refused.hint)
            return
        if runtime is Runtime.BINARY and not status.st_mode & 0o111:
            self._error(at, f"{at} {path!r} is not executable", "run chmod +x on it")

    def _interface(self, entry: Entry) -> Interface:
        """The interface of the source; stdio if it can't be read."""
        if entry.source is None or entry.runtime is Runtime.BINARY:
            return "stdio"
        try:
            path = resolve_inside(self._directory, entry.source)
            source = read_regular(path, max_bytes=MAX_SOURCE_BYTES)
        except FileRefusedError as refused:
            if not self.problems:
                self.problems.append(
                    self._origin.problem(
                        f"the interface of {entry.source!r} cannot be told: {refused.message}; "
                        "stdio is assumed",
                        "set `interface` in the manifest",
                        severity="warning",
                    )
                )
            return "stdio"
        return detect_interface(entry.runtime, source.decode(errors="replace"))

    def _error(self, at: str, message: str, hint: str) -> None:
        self.problems.append(self._origin.problem(message, hint, at=at))
