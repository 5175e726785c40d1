"""SECURITY.md names a test for each promise; each of them has to exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| `([\w/]+\.py)::(\w+)` \|$", PAGE, re.MULTILINE)


def names_in(file: str) -> set[str]:
    """The names of the tests in a file, which is named as on the page."""
    path = ROOT / file if "/" in file else ROOT / "tests" / "docker" / "security" / file
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_the_table_is_found() -> None:
    assert len(ROWS) > 40
    section = PAGE.split("### Promise and test")[1].split("###")[0]
    assert section.count("::") == len(ROWS), "a row is not in the form: promise, `file::test`"


@pytest.mark.parametrize(("promise", "file", "test"), ROWS, ids=[row[2] for row in ROWS])
def test_each_promise_names_a_test_that_exists(promise: str, file: str, test: str) -> None:
    assert test in names_in(file), promise


def test_every_file_of_the_battery_is_named() -> None:
    files = {path.name for path in (ROOT / "tests" / "docker" / "security").glob("test_*.py")}
    assert files <= {file for _, file, _ in ROWS}


def test_links_lead_to_files_that_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / target).exists(), target
