"""Finds a function's dependencies in its manifest and in the files beside its code. Pure.

The files of one ecosystem are read together, and a lock file decides if there is one. An author's
own `node_modules` or `vendor` is used as it is.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from sandbox.errors import InvalidManifestError
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.functions.function import Function

Installer = Literal["pip", "npm", "bun", "deno"]

INSTALLERS: Final[Mapping[Runtime, Installer]] = {
    Runtime.PYTHON: "pip",
    Runtime.NODE: "npm",
    Runtime.BUN: "bun",
    Runtime.DENO: "deno",
}
NPM_LOCKS: Final = ("package-lock.json", "npm-shrinkwrap.json")
BUN_LOCKS: Final = ("bun.lock", "bun.lockb", *NPM_LOCKS)
_DENO_FILES: Final = ("deno.json", "deno.jsonc")
# Further files that the installers read.
_BESIDE: Final[Mapping[Installer, tuple[str, ...]]] = {
    "pip": (),
    "npm": ("package.json", *NPM_LOCKS, ".npmrc"),
    "bun": ("package.json", *BUN_LOCKS, "bunfig.toml", ".npmrc"),
    "deno": (*_DENO_FILES, "deno.lock", "package.json"),
}
# Files at the top of a function's directory that may list dependencies.
DEPENDENCY_FILES: Final = ("requirements.txt", "pyproject.toml", "package.json", *_DENO_FILES)
READ_BY_INSTALLERS: Final = frozenset({*DEPENDENCY_FILES, *itertools.chain(*_BESIDE.values())})
# Scripts that npm runs when it installs. They may read any file.
_SCRIPTS: Final = frozenset(
    {"preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"}
)
# Versions that are paths, not numbers.
_LOCAL: Final = ("file:", "link:", "workspace:", "portal:", "./", "../", "/", "~/")
# Authors write these texts: possessive quantifiers keep a search from starting over within a gap.
_LOCAL_REQUIREMENT: Final = re.compile(
    r"^[^\S\n]*+(?:-(?!-hash)|\.|/)|file:|(?<!:)/|\.(?:whl|zip|tgz|tar\.\w+)\b", re.MULTILINE
)
_SPECIFIER: Final = re.compile(rb"""["'`]((?:npm|jsr):[^"'`\s\\]{1,500})["'`]""")
_REMOTE: Final = re.compile(
    rb"""\b(?:from|import)\s*+\(?\s*+["'](https?://[^"'\s\\]{1,2000})["']"""
)


# Python's TOML reader takes the square of the dots of a key. No line of a real file has so many.
_MAX_DOTS: Final = 100


class SourceFiles(Protocol):
    """The files of a function."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is no such file."""

    def has_directory(self, name: str) -> bool:
        """Whether there is a directory of that name at the top."""

    def scripts(self) -> Iterable[bytes]:
        """The contents of the function's own JavaScript and TypeScript files."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to install, and everything that decides the result.

    `files` are the files that the installer reads, by path. With `whole` it may read any file of
    the function, so all of them decide. `packages` come from the manifest.
    """

    installer: Installer
    files: Mapping[str, bytes] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    whole: bool = False
    locked: bool = False
    development: bool = False


def find(function: Function, source: SourceFiles, *, development: bool = False) -> Request | None:
    """What to install for `function`, or None; with `development`, for its build.

    Raises:
        InvalidManifestError: its manifest names a file that its runtime's installer cannot read.
    """
    installer = INSTALLERS.get(function.runtime)
    asked = function.manifest.dependencies
    if installer is None:
        if asked and function.runtime is Runtime.BINARY:
            raise _unknown(function, "there is no installer for the runtime binary")
        return None  # Go's modules are in vendor/
    match installer:
        case "pip":
            return _pip(function, source)
        case "deno":
            return _deno(function, source)
        case _:
            return _npm(function, source, installer, development=development)


def _pip(function: Function, source: SourceFiles) -> Request | None:
    asked = function.manifest.dependencies
    if isinstance(asked, tuple) and asked:
        text = "\n".join(asked) + "\n"
        return _requirements(text)
    for name in (asked,) if asked else ("requirements.txt", "pyproject.toml"):
        content = source.read(str(name))
        if content is None:
            continue
        if str(name).endswith(".toml"):
            try:
                listed = _project_dependencies(content)
            except ValueError as error:
                raise _unknown(function, f"{name}: {error}") from None
            if listed:
                return _requirements("\n".join(listed) + "\n")
        elif content.strip():
            return _requirements(content.decode(errors="replace"), file=str(name))
    return None


def _requirements(text: str, *, file: str = "") -> Request:
    pinned = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = _LOCAL_REQUIREMENT.search(text) is not None
    if whole and file:
        # Read in its place: it may name other files, relative to itself.
        text = f"-r {shlex.quote(file)}\n"
    return Request(
        installer="pip",
        files={".alyx-requirements.txt": text.encode()},
        whole=whole,
        locked=all("==" in line or line.lstrip().startswith("--hash") for line in pinned),
    )


def _project_dependencies(content: bytes) -> list[str]:
    """`project.dependencies` of a pyproject.toml. Raises ValueError if it is no list of texts."""
    if any(line.count(b".") > _MAX_DOTS for line in content.splitlines()):
        raise ValueError(f"a line has more than {_MAX_DOTS} dots")
    try:
        project = tomllib.loads(content.decode()).get("project", {})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no TOML: {error}") from None
    listed = project.get("dependencies", []) if isinstance(project, dict) else None
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise ValueError("project.dependencies is no list of texts")
    if any("\n" in item or item.lstrip().startswith("-") for item in listed):
        raise ValueError("project.dependencies holds what is no requirement")
    return listed


def _npm(
    function: Function, source: SourceFiles, installer: Installer, *, development: bool
) -> Request | None:
    asked = function.manifest.dependencies
    if isinstance(asked, str) and asked != "package.json":
        raise _unknown(function, f"{function.runtime} reads package.json, beside the code")
    packages = asked if isinstance(asked, tuple) else ()
    if not asked and source.has_directory("node_modules"):
        return None
    files = _files(source, installer)
    package = _object(files.get("package.json", b"{}"))
    kinds = ["dependencies", "optionalDependencies", *(["devDependencies"] if development else [])]
    wanted: dict[str, Any] = {}
    for kind in kinds:
        wanted |= _object(package.get(kind))
    if not (wanted or packages):
        return None
    locks = NPM_LOCKS if installer == "npm" else BUN_LOCKS
    scripts = _object(package.get("scripts")).keys() & _SCRIPTS
    places = [*map(str, wanted.values()), *packages]
    local = any(place.startswith(_LOCAL) or "@file:" in place for place in places)
    return Request(
        installer=installer,
        files=files,
        packages=packages,
        whole=bool(scripts or local or "workspaces" in package),
        locked=not packages and any(lock in files for lock in locks),
        development=development,
    )


def _deno(function: Function, source: SourceFiles) -> Request | None:
    asked = function.manifest.dependencies
    if isinstance(asked, str) and asked not in _DENO_FILES:
        raise _unknown(function, "deno reads deno.json, beside the code")
    files = _files(source, "deno")
    specifiers = set(asked if isinstance(asked, tuple) else ())
    for text in (*(files[name] for name in _DENO_FILES if name in files), *source.scripts()):
        specifiers |= {match.decode(errors="replace") for match in _SPECIFIER.findall(text)}
        specifiers |= {match.decode(errors="replace") for match in _REMOTE.findall(text)}
    remote = any(b"https:" in files.get(name, b"") for name in _DENO_FILES)
    listed = _object(files.get("package.json", b"{}")).get("dependencies")
    package = bool(listed) and not source.has_directory("node_modules")
    if not (specifiers or remote or package):
        return None
    return Request(
        installer="deno",
        files=files,
        # A specifier with a slash at its end is a prefix in an import map, not a module.
        packages=tuple(sorted(item for item in specifiers if not item.endswith("/"))),
        locked="deno.lock" in files,
    )


def _files(source: SourceFiles, installer: Installer) -> dict[str, bytes]:
    found = ((name, source.read(name)) for name in _BESIDE[installer])
    return {name: content for name, content in found if content is not None}


def _object(value: Any) -> dict[str, Any]:
    """`value`, or the JSON in it, if that is an object; else an empty object."""
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # npm says what is wrong with it
            return {}
    return value if isinstance(value, dict) else {}


def _unknown(function: Function, message: str) -> InvalidManifestError:
    where = function.where("dependencies")
    return InvalidManifestError(
        f"{where}: dependencies: {message}", details={"problems": [f"dependencies: {message}"]}
    )
