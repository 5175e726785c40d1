"""Finds the functions in a directory, and every problem. It runs nothing.

    functions/
      hello/index.py                  a directory with an entry file
      resize/function.yaml, …         a directory with a manifest
      greet.js, greet.yaml            a single file, with a manifest beside it or without
      schema.yaml                     Alyx's own form: a map `functions:`

A bad function never hides a good one, because each is read on its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandbox.config.field_types import check_name
from sandbox.documents.problems import Problem, capped, has_errors
from sandbox.documents.untrusted_files import FileRefusedError, refusal, resolve_inside
from sandbox.documents.yaml_reader import load
from sandbox.functions.entrypoint import detect, runtime_of
from sandbox.functions.function import Assembly, Description, Folder, Function, Origin
from sandbox.functions.manifest import Manifest, manifest_from
from sandbox.functions.schema import SCHEMA_FILE, read_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.documents.yaml_reader import Node
    from sandbox.functions.schema import Declared

__all__ = ["Discovery", "Function", "discover", "function_from_path"]

MANIFEST_FILES: Final = ("function.yaml", "function.yml", "manifest.yaml")
_MANIFEST_SUFFIXES: Final = (".yaml", ".yml")
_FUNCTIONS_FOLDER: Final = "functions"
_PASSED_OVER: Final = "node_modules"
# Endings of files that are no functions, and no mistakes either, such as `hello.test.ts`.
_NO_FUNCTIONS: Final = (".d", ".test", ".spec", ".config")
_MOST_ENTRIES: Final = 10_000


@dataclass(frozen=True)
class Discovery:
    """The functions, sorted by name, and the problems, sorted by place."""

    functions: tuple[Function, ...]
    problems: tuple[Problem, ...]


def discover(directory: Path) -> Discovery:
    """Every function in `directory`, and every problem. Problems are never raised.

    Paths in problems begin with `directory`, or with its last part if it is absolute.
    """
    shown = directory.name if directory.is_absolute() else str(directory)
    try:
        root = directory.resolve(strict=True)
        search = _Search(root, "" if shown == "." else f"{shown}/")
        search.run()
    except (OSError, ValueError, RuntimeError) as error:
        refused = refusal(error)
        problem = Problem(
            message=f"the functions directory cannot be used: {refused.message}",
            hint=refused.hint,
            file=shown,
        )
        return Discovery((), (problem,))
    functions = sorted(search.functions.values(), key=lambda function: function.name)
    problems = sorted(search.problems, key=lambda item: (item.file, item.line or 0))
    return Discovery(tuple(functions), tuple(problems))


def function_from_path(path: Path) -> tuple[Function | None, list[Problem]]:
    """The function of a single file or directory, with its manifest, if any.

    Its name comes from the path; an invalid name is changed, so `my script.py` gives `my-script`.
    """
    try:
        resolved = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        refused = refusal(error)
        return None, [Problem(message=refused.message, hint=refused.hint, file=str(path))]
    search = _Search(resolved.parent, "")
    is_directory = resolved.is_dir()
    stem = resolved.name if is_directory else resolved.stem
    letters = (c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in stem)
    name = "".join(letters).lstrip("-_0123456789")[:63] or "function"
    if is_directory:
        search.directory(resolved.name, function=name)
    else:
        search.single_file(resolved.name, function=name)
    return next(iter(search.functions.values()), None), search.problems


class _Search:
    """One walk over a functions directory. `shown` is the beginning of paths in problems."""

    def __init__(self, root: Path, shown: str) -> None:
        self.functions: dict[str, Function] = {}
        self.problems: list[Problem] = []
        self._root = root
        self._shown = shown
        # Directories that schema.yaml declares, and the entry for each.
        self._declared: dict[Path, Origin] = {}

    def run(self) -> None:
        """Find everything. Raises OSError if the directory itself can't be read."""
        names = self._names("")
        base = ""
        if self._read_schema() and (self._root / _FUNCTIONS_FOLDER).is_dir():
            # An Alyx project: its functions are in `functions`, beside its other folders.
            base = f"{_FUNCTIONS_FOLDER}/"
            names = self._names(base)
        for name in names:
            if name in MANIFEST_FILES:
                self._warn(
                    f"{base}{name}",
                    "this manifest stands in the functions directory itself, and is not read",
                    "move the function into a directory of its own, or name the parent directory",
                )
            elif not name.startswith((".", "_")) and name != _PASSED_OVER:
                self._visit(f"{base}{name}")

    def single_file(self, path: str, *, function: str | None = None) -> None:
        """The function of one file, named `function` or after the file."""
        pure = PurePosixPath(path)
        try:
            real = resolve_inside(self._root, path)
        except FileRefusedError as refused:
            self._refuse(path, pure.stem, refused)
            return
        folder = Folder((self._root / path).parent)
        beside = [f"{pure.stem}{suffix}" for suffix in _MANIFEST_SUFFIXES]
        manifests = [name for name in beside if name != SCHEMA_FILE and folder.has(name)]
        description = self._describe(
            function or pure.stem, path, [str(pure.with_name(name)) for name in manifests]
        )
        if description is not None:
            assembly = Assembly(description, directory=real.parent)
            self._add(assembly.single_file(real.name), assembly.problems)

    def directory(self, path: str, *, function: str) -> None:
        """The function of one directory, even if it does not look like a function."""
        try:
            real = resolve_inside(self._root, path)
        except FileRefusedError as refused:
            self._refuse(path, function, refused)
            return
        description = self._describe(function, path, self._manifests(path, real))
        if description is not None:
            self._assemble(description, real)

    def _names(self, base: str) -> list[str]:
        with os.scandir(self._root / base) as entries:
            names = [entry.name for entry in islice(entries, _MOST_ENTRIES + 1)]
        if len(names) > _MOST_ENTRIES:
            self._warn(
                base, f"more than {_MOST_ENTRIES} entries; not all are looked at", "remove some"
            )
        return sorted(names[:_MOST_ENTRIES])

    def _visit(self, path: str) -> None:
        """Read one entry of the functions directory. Entries that are no functions are skipped."""
        pure = PurePosixPath(path)
        try:
            real = resolve_inside(self._root, path)
            if real.is_dir():
                self._folder(path, real)
            elif self._is_single_file(pure):
                self.single_file(path)
        except FileRefusedError as refused:
            self._refuse(path, pure.stem, refused)
        except OSError as error:
            self._refuse(path, pure.name, refusal(error))

    def _is_single_file(self, path: PurePosixPath) -> bool:
        """Whether a file's ending makes it a function."""
        if PurePosixPath(path.stem).suffix in _NO_FUNCTIONS:
            return False
        return runtime_of(path.name, Folder((self._root / path).parent)) is not None

    def _folder(self, path: str, real: Path) -> None:
        os.scandir(real).close()  # a directory that can't be entered is not skipped: OSError
        manifests = self._manifests(path, real)
        declared = self._declared.get(real)
        if declared is not None:
            for manifest in manifests:
                self._warn(
                    manifest,
                    f"this manifest is not read: {declared.where()} describes the function",
                    "keep one of the two",
                    function=declared.function,
                )
        elif manifests or detect(Folder(real)) is not None:
            description = self._describe(PurePosixPath(path).name, path, manifests)
            if description is not None:
                self._assemble(description, real)

    @staticmethod
    def _manifests(path: str, real: Path) -> list[str]:
        folder = Folder(real)
        return [f"{path}/{name}" for name in MANIFEST_FILES if folder.has(name)]

    def _describe(self, name: str, path: str, manifests: list[str]) -> Description | None:
        """The description of a function: its manifest, or only its place."""
        bare = Origin(name, f"{self._shown}{path}")
        if not manifests:
            return Description(bare, Manifest()) if self._has_good_name(bare) else None
        if len(manifests) > 1:
            names = " and ".join(PurePosixPath(manifest).name for manifest in manifests)
            self.problems.append(bare.problem(f"it has {names}", "keep one of them"))
            return None
        file = self._root / manifests[0]
        shown = f"{self._shown}{manifests[0]}"
        node, problems = load(file, shown)
        manifest = None
        if node is not None:
            name = _name_in(node) or name
            manifest, more = manifest_from(node, shown)
            problems = capped([*problems, *more])
        self.problems += [replace(problem, function=name) for problem in problems]
        origin = Origin(name, shown, node)
        if manifest is None or has_errors(problems) or not self._has_good_name(origin):
            return None
        return Description(origin, manifest, file)

    def _assemble(self, description: Description, directory: Path) -> None:
        """Make the function of a directory. A manifest's `path` may name a directory inside."""
        path, origin = description.manifest.path, description.origin
        try:
            real = resolve_inside(directory, path) if path is not None else directory
            if not real.is_dir():
                raise FileRefusedError("it is not a directory", "name a directory")
        except FileRefusedError as refused:
            message = f"path {path!r}: {refused.message}"
            self.problems.append(origin.problem(message, refused.hint, at="path"))
            return
        assembly = Assembly(description, directory=real)
        self._add(assembly.directory(), assembly.problems)

    def _add(self, function: Function | None, problems: Iterable[Problem]) -> None:
        self.problems += problems
        if function is None:
            return
        other = self.functions.setdefault(function.name, function)
        if other is not function:
            message = f"a second function named {function.name!r}: the first is {other.where()}"
            self.problems.append(function.origin.problem(message, "rename one of them", at="name"))

    def _read_schema(self) -> bool:
        """Add the functions that schema.yaml declares; returns whether it declares any."""
        path = self._root / SCHEMA_FILE
        schema = read_schema(path, f"{self._shown}{SCHEMA_FILE}") if os.path.lexists(path) else None
        if schema is None:
            return False
        self.problems += schema.problems
        for declared in schema.functions:
            self.problems += declared.problems
            directory = self._declared_directory(declared)
            if directory is not None:
                self._declared.setdefault(directory, declared.origin)
                if declared.manifest is not None:
                    # Its `path` starts at the schema's directory, and has been followed.
                    manifest = declared.manifest.model_copy(update={"path": None})
                    self._assemble(Description(declared.origin, manifest, path), directory)
        return True

    def _declared_directory(self, declared: Declared) -> Path | None:
        """The directory of a declared function: its `path`, else a directory of its name."""
        origin, name = declared.origin, declared.origin.function
        if not self._has_good_name(origin):
            return None
        places = [name, f"{_FUNCTIONS_FOLDER}/{name}"]
        if declared.path is not None:
            places = [declared.path]
        for place in places:
            try:
                return resolve_inside(self._root, place)
            except FileRefusedError as error:
                refused = error
        if declared.manifest is not None:
            message = f"its directory {' or '.join(map(repr, places))}: {refused.message}"
            self.problems.append(origin.problem(message, "create it, or set `path`", at="path"))
        return None

    def _has_good_name(self, origin: Origin) -> bool:
        try:
            check_name(origin.function)
        except ValueError as error:
            self.problems.append(origin.problem(str(error), "rename it", at="name"))
            return False
        return True

    def _refuse(self, path: str, name: str, refused: FileRefusedError) -> None:
        origin = Origin(name, f"{self._shown}{path}")
        self.problems.append(origin.problem(refused.message, refused.hint))

    def _warn(self, path: str, message: str, hint: str, *, function: str | None = None) -> None:
        origin = Origin(function or "", f"{self._shown}{path}")
        problem = origin.problem(message, hint, severity="warning")
        self.problems.append(replace(problem, function=function))


def _name_in(node: Node) -> str | None:
    """The name in a manifest, valid or not."""
    name = node.value.get("name") if isinstance(node.value, dict) else None
    return name if isinstance(name, str) else None
