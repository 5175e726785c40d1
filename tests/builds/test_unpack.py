"""What is taken from a build's archive, and what is not. Whoever wrote it may be hostile."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.builds.unpack import Archive
from sandbox.errors import BuildFailedError
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CAP = 4 * MIB


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[[bytes], Path]:
    """`unpack(data)` is the directory that an archive became."""
    (tmp_path / "outside").mkdir()

    def take_and_unpack(data: bytes) -> Path:
        into = tmp_path / "into"
        into.mkdir()
        with contextlib.closing(Archive(tmp_path / "archive", cap=CAP)) as archive:
            for start in range(0, len(data), 1000):
                archive.take(data[start : start + 1000])
            archive.unpack(into)
        return into

    return take_and_unpack


def test_files_directories_and_links_come_out(unpack: Callable[[bytes], Path]) -> None:
    long = "d/" + "n" * 200
    into = unpack(
        archive_of(
            (entry("./"), b""),
            (entry("d", tarfile.DIRTYPE, mode=0o700), b""),
            (entry("d/run", mode=0o6711), b"#!"),
            (entry(long, mode=0o600), b"x" * 5000),
            (entry("hard", tarfile.LNKTYPE, linkname="d/run"), b""),
            (entry("soft", tarfile.SYMTYPE, linkname="d/run"), b""),
        )
    )
    assert (into / long).read_bytes() == b"x" * 5000
    assert (into / "hard").read_bytes() == (into / "soft").read_bytes() == b"#!"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in into.rglob("*")}
    assert (modes["d"], modes["run"], modes["n" * 200]) == (0o755, 0o755, 0o644)
    assert {path.lstat().st_uid for path in into.rglob("*")} == {os.geteuid()}


LINK_OUT = (entry("out", tarfile.SYMTYPE, linkname="../outside"), b"")
HOSTILE = {
    "a name above": [(entry("../outside/f"), b"x")],
    "a name above, further down": [(entry("a/../../outside/f"), b"x")],
    "a file through a link": [LINK_OUT, (entry("out/f"), b"x")],
    "a file in the place of a link": [LINK_OUT, (entry("out"), b"x")],
    "a link in the place of a file": [(entry("out"), b"x"), LINK_OUT],
    "a hard link above": [(entry("f", tarfile.LNKTYPE, linkname="../outside"), b"")],
    "a hard link to nothing": [(entry("f", tarfile.LNKTYPE, linkname="g"), b"")],
    "a hard link to the host": [(entry("f", tarfile.LNKTYPE, linkname="/etc/passwd"), b"")],
    "a hard link to a directory": [
        (entry("d", tarfile.DIRTYPE), b""),
        (entry("f", tarfile.LNKTYPE, linkname="d"), b""),
    ],
    "a hard link to all of it": [(entry("f", tarfile.LNKTYPE, linkname="."), b"")],
    "a link to nothing": [(entry("f", tarfile.SYMTYPE, linkname=""), b"")],
    "a name that is too long": [(entry("n" * 300), b"x")],
    "a device": [(entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3), b"")],
    "a FIFO": [(entry("pipe", tarfile.FIFOTYPE), b"")],
    "one name twice": [(entry("f"), b"1"), (entry("f"), b"2")],
    "a file as a directory": [(entry("f"), b"1"), (entry("f/g"), b"2")],
    "too deep": [(entry("d/" * 101 + "f"), b"1")],
    "too much": [(entry(f"f{number}"), b"x" * MIB) for number in range(5)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_leaves_the_directory(
    unpack: Callable[[bytes], Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(BuildFailedError, match="the build left|cannot be read"):
        unpack(archive_of(*HOSTILE[name]))
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_absolute_name_stays_inside(unpack: Callable[[bytes], Path]) -> None:
    into = unpack(archive_of((entry("/etc/passwd"), b"x")))
    assert (into / "etc/passwd").read_bytes() == b"x"


def test_a_header_that_claims_gigabytes_takes_no_memory(unpack: Callable[[bytes], Path]) -> None:
    """Long names and extended headers are read as a whole by whoever trusts their size."""
    header = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=3 * MIB)
    data = header.tobuf(tarfile.GNU_FORMAT) + b"n" * 3 * MIB
    with pytest.raises(BuildFailedError, match="header is too large"):
        unpack(data + archive_of((entry("f"), b"")))


def test_an_archive_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    def flood(archive: Archive) -> None:
        while True:
            archive.take(bytes(MIB))

    with contextlib.closing(Archive(tmp_path / "archive", cap=CAP)) as archive:
        with pytest.raises(BuildFailedError, match=r"more than 4mb .*build\.output"):
            flood(archive)
    assert (tmp_path / "archive").stat().st_size < 200 * MIB


def test_a_cut_archive_is_told(unpack: Callable[[bytes], Path]) -> None:
    data = archive_of((entry("f"), b"x" * 5000))
    with pytest.raises(BuildFailedError, match="cannot be read"):
        unpack(data[:2000])


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None
)
@given(
    names=st.lists(st.text(max_size=12), max_size=5),
    kinds=st.lists(st.sampled_from(b"01235LKxgS7"), min_size=5, max_size=5),
    noise=st.binary(max_size=600),
)
def test_whatever_an_archive_is_it_is_unpacked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kinds: list[int], noise: bytes
) -> None:
    members = [
        (entry(name, bytes([kind]), linkname=name[::-1]), b"12 size=9\n")
        for name, kind in zip(names, kinds, strict=False)
        if name.isprintable()
    ]
    base = tmp_path_factory.mktemp("noise")
    into = base / "into"
    into.mkdir()
    with contextlib.closing(Archive(base / "archive", cap=CAP)) as archive:
        archive.take(archive_of(*members)[: 512 * 20] + noise)
        with contextlib.suppress(BuildFailedError):
            archive.unpack(into)
    assert {path.name for path in base.iterdir()} == {"into", "archive"}
