"""Functions to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox.functions.discovery import discover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.functions.function import Function


@pytest.fixture
def function(tmp_path: Path) -> Callable[[str], Function]:
    """`function(manifest)` is a function with that manifest."""

    def make(manifest: str) -> Function:
        directory = tmp_path / "functions/f"
        directory.mkdir(parents=True)
        (directory / "function.yaml").write_text(manifest)
        for name in ("index.py", "index.js", "requirements.txt", "other.lock"):
            (directory / name).touch()
        (directory / "run").touch(mode=0o755)
        found = discover(tmp_path / "functions")
        assert found.functions, found.problems
        return found.functions[0]

    return make
