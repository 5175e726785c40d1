"""Patterns of paths mean what build tools mean by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.deploy.globs import matches


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("src/**/*.ts", ["src/a.ts", "src/b/c/d.ts"], ["a.ts", "src/a.js", "xsrc/a.ts"]),
        ("*.ts", ["a.ts", "src/deep/a.ts"], ["a.tsx", "a.ts/b"]),
        ("./src/*.ts", ["src/a.ts"], ["src/b/a.ts"]),
        ("src/**", ["src/a", "src/b/c"], ["srcs/a"]),
        ("src/", ["src/a", "src/b/c"], ["src"]),
        ("src/?.ts", ["src/a.ts"], ["src/ab.ts", "src//.ts"]),
        ("src/[ab].ts", ["src/a.ts"], ["src/c.ts"]),
        ("src/[b-a].ts", ["src/[b-a].ts"], ["src/a.ts"]),
        ("src/[!ab].ts", ["src/c.ts"], ["src/a.ts", "src//.ts"]),
        ("a+(b).ts", ["a+(b).ts"], ["aab.ts"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], does_not: list[str]) -> None:
    assert [path for path in fits if not matches(path, pattern)] == []
    assert [path for path in does_not if matches(path, pattern)] == []


@given(st.text(), st.text("ab*?[]!^-/\\.&|~"))
def test_any_text_is_a_pattern(path: str, pattern: str) -> None:
    matches(path, pattern)
