"""What is read of a bundle to find its dependencies: no more than some size, no links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.builds import source
from sandbox.builds.source import BundleSource

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_files_are_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_LARGEST", 4)
    (tmp_path / "small").write_text("1234")
    (tmp_path / "large").write_text("12345")
    (tmp_path / "folder").mkdir()
    files = BundleSource(tmp_path)
    assert files.read("small") == b"1234"
    assert [files.read(name) for name in ("large", "folder", "nothing")] == [None] * 3
    assert [files.has_directory(name) for name in ("folder", "small")] == [True, False]


def test_scripts_are_the_function_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.ts", "a.js", "notes.txt", "lib/c.mjs", "node_modules/six/d.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.js").symlink_to("a.js")
    assert list(BundleSource(tmp_path).scripts()) == [b"a.js", b"b.ts", b"lib/c.mjs"]
    monkeypatch.setattr(source, "_MOST_CODE", 8)
    assert list(BundleSource(tmp_path).scripts()) == [b"a.js", b"b.ts"]
