"""What authors and functions write costs this process time that grows with its length only."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.builds.unpack import Archive
from sandbox.deploy.globs import matches
from sandbox.documents.yaml_reader import load
from sandbox.errors import BuildFailedError
from sandbox.functions import dependencies
from sandbox.functions.interface import detect_interface
from sandbox.protocol.json_values import loads
from sandbox.protocol.response import StdioCollector
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Eight times the text takes eight times as long, give or take; a square takes 64 times as long.
FACTOR = 8
MOST = 24
# Below this, in seconds, there is nothing to complain about, and nothing to measure.
QUICK = 0.1


def seconds(call: Callable[[Any], object], text: Any) -> float:
    began = time.process_time()
    with contextlib.suppress(ValueError, BuildFailedError):  # it may be refused
        call(text)
    return time.process_time() - began


def is_linear(call: Callable[[Any], object], make: Callable[[int], Any], length: int) -> bool:
    """Whether `make(length)` costs no square; the short text is the first, so a square ends soon."""
    short = seconds(call, make(length // FACTOR))
    if short > 10:
        return False
    return (long := seconds(call, make(length))) < QUICK or long < MOST * max(short, 0.01)


def repeated(unit: str) -> Callable[[int], str]:
    return lambda length: (unit * (length // len(unit) + 1))[:length]


def octets(unit: str, before: str = "") -> Callable[[int], bytes]:
    return lambda length: before.encode() + repeated(unit)(length).encode()


REQUIREMENTS = ["\n", " ", "\t\n", ".tar.", "/", "-", "a ", "\\\n"]


@pytest.mark.parametrize("unit", REQUIREMENTS)
def test_requirements(unit: str) -> None:
    assert is_linear(dependencies._requirements, repeated(unit), 512 * 1024)


@pytest.mark.parametrize(
    "text", ["a" + ".a" * 2**17 + "=1", "[a" + ".a" * 2**17 + "]", "a={b" + ".b" * 2**17 + "=1}"]
)
def test_keys_of_many_parts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dots"):
        dependencies._project_dependencies(text.encode())


SCRIPTS = [
    "import ", "import\n", "from \"https://", "'npm:", '"jsr:a', "import(", "import ( ", "`npm:x`",
]  # fmt: skip


@pytest.mark.parametrize("unit", SCRIPTS)
@pytest.mark.parametrize("before", ["", "import"])
def test_specifiers_in_scripts(before: str, unit: str) -> None:
    pattern = dependencies._REMOTE.findall, dependencies._SPECIFIER.findall
    for find in pattern:
        assert is_linear(find, octets(unit, before), 256 * 1024)
    assert is_linear(dependencies._REMOTE.findall, octets(" ", "import"), 256 * 1024)


CODE = [
    '"', "'", '"""', "`", "\\", "/*", "//", "#", "{", "export ", "export{a as ", "module .", "exports. ",
    "import {", "{stdin ", "from a import ", "async def ", "sys. ", "open ( ", "fd :", "func Handler ",
]  # fmt: skip


@pytest.mark.parametrize("unit", CODE)
@pytest.mark.parametrize("runtime", [Runtime.PYTHON, Runtime.NODE, Runtime.GO])
def test_interfaces(runtime: Runtime, unit: str) -> None:
    handler = "export default 1;\ndef handler(ctx): pass\nfunc Handler(\n"

    def detect(text: str) -> object:
        return detect_interface(runtime, handler + text)

    assert is_linear(detect, repeated(unit), 128 * 1024)


@pytest.mark.parametrize(
    "pattern", ["*a" * 40 + "b", "**/a" * 40 + "/b", "[a-c]*" * 40 + "x", "**" * 40]
)
def test_patterns_of_paths(pattern: str) -> None:
    assert is_linear(lambda path: matches(path, pattern), repeated("a/"), 4096)
    assert is_linear(lambda path: matches(path, pattern), repeated("a"), 4096)


@pytest.mark.parametrize(
    "unit", ["- ", "[", "[a,", "? ", "a: 1\n", "\n", " ", "#\n", ":", "&a ", "!", "'"]
)
def test_manifests(tmp_path: Path, unit: str) -> None:
    file = tmp_path / "function.yaml"

    def read(text: str) -> object:
        file.write_text(text)
        return load(file, "function.yaml")

    assert is_linear(read, repeated(unit), 200 * 1024)


@pytest.mark.parametrize("unit", ["[", "1", '"', "\\", '"\\u0041', " ", "-", '{"a":', "1,"])
def test_json(unit: str) -> None:
    assert is_linear(loads, octets(unit), 512 * 1024)


@pytest.mark.parametrize("unit", ["\n", "{", '{"success":true}\n', "\n ", '{"output":', "9"])
def test_output(unit: str) -> None:
    def collect(data: bytes) -> object:
        collector = StdioCollector(
            max_output=2**30,
            max_logs=2**30,
            now=lambda: "",
            marks=None,  # type: ignore[arg-type]
        )
        collector._feed_stdout(data)
        return collector._parse()

    assert is_linear(collect, octets(unit), 512 * 1024)


def archive(headers: int, members: int, kind: bytes) -> bytes:
    """A tar archive with that many pax headers for all members (`g`), or for each (`x`)."""

    def record(key: str) -> bytes:
        rest = f" {key}=v\n"
        length = next(n for n in range(len(rest), 999) if len(str(n)) + len(rest) == n)
        return f"{length}{rest}".encode()

    def header(name: str, size: int, kind: bytes) -> bytes:
        member = tarfile.TarInfo(name)
        member.size, member.type = size, kind
        return member.tobuf(format=tarfile.USTAR_FORMAT)

    records = b"".join(record(f"k{number}") for number in range(headers))
    extended = header("pax", len(records), kind) + records + bytes(-len(records) % 512)
    files = [header(f"f{number}", 0, tarfile.REGTYPE) for number in range(members)]
    if kind == b"x":
        files = [extended + file for file in files]
    return (extended if kind == b"g" else b"") + b"".join(files) + bytes(1024)


@pytest.mark.parametrize("kind", [b"g", b"x"])
def test_headers_of_an_archive_are_not_multiplied(tmp_path: Path, kind: bytes) -> None:
    taken = Archive(tmp_path / "archive", cap=2**30)
    taken.take(archive(5000, 50, kind))
    with pytest.raises(BuildFailedError, match="too many headers"):
        taken.unpack(tmp_path / "into")
    taken.close()


def test_an_archive_with_headers_that_tools_write_is_taken(tmp_path: Path) -> None:
    """The control: names beyond ASCII and long ones have headers of their own."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("n\N{LATIN SMALL LETTER O WITH DIAERESIS}", "long" * 60):
            tar.addfile(tarfile.TarInfo(name))
    taken = Archive(tmp_path / "archive", cap=2**30)
    taken.take(made.getvalue())
    (tmp_path / "into").mkdir()
    taken.unpack(tmp_path / "into")
    taken.close()
    assert len(list((tmp_path / "into").iterdir())) == 2
