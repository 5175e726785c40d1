"""What a fake container does that builds something."""

from __future__ import annotations

import io
import tarfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from sandbox.builds.builder import COMPILED

if TYPE_CHECKING:
    from sandbox.testing.process import FakeProcess

# A host that every tool names as its own registry.
REGISTRY: Final = "registry.example:443"


@dataclass(frozen=True, kw_only=True)
class FakeBuild:
    """What a build was given.

    `command` is `("install", PACKAGE…)`, `("build", COMMAND, ARGUMENT…)` or
    `("compile", ENTRYPOINT, INTERFACE)`; `image` is the short name of its image, such as
    `python-build`; `files` are the contents of the files that it can read, by their path.
    """

    function: str
    command: tuple[str, ...]
    image: str
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    process: FakeProcess


# Returns the files that the build leaves, by their path.
Build: TypeAlias = Callable[[FakeBuild], Mapping[str, bytes]]


def default_build(build: FakeBuild) -> Mapping[str, bytes]:
    """A build that works: installs nothing, and makes an empty file of what is to be built."""
    match build.command[0]:
        case "compile":
            return {COMPILED: b""}
        case "build":
            return {build.env["BUILD_OUTPUT"]: b""}
        case _:
            return {}


class BuildProgram:
    """The program of a container that builds."""

    instant = False

    def __init__(self, build: Build, given: Callable[[FakeProcess], FakeBuild]) -> None:
        self._build = build
        self._given = given

    def start(self, process: FakeProcess) -> None:
        given = self._given(process)
        if not given.command:
            process.write(f"{REGISTRY}\n")
            process.exit()
        try:
            archive = _archive(self._build(given))
        except Exception as error:  # the build's own
            process.write("".join(traceback.format_exception(error)), "stderr")
            process.exit(1)
        process.write(archive)
        process.exit()

    def take(self, process: FakeProcess, line: bytes) -> None:
        """Builds read nothing."""

    def end(self, process: FakeProcess) -> None:
        """Builds end when they are done."""


def _archive(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()
