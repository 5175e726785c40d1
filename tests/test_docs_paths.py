"""Every file of the project that a page names exists, and every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
FILES = set(
    subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
)
FOLDERS = {str(folder) for file in FILES for folder in Path(file).parents}
NAMED = re.compile(
    r"`((?:sandbox|cli|tests|scripts|images|docs|deploy|benchmarks|examples)/[\w./*-]+)(?:::\w+)?`"
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = {name.rstrip("/") for name in NAMED.findall(text)}
    missing = {name for name in named if "*" not in name and "NAME" not in name} - FILES - FOLDERS
    missing |= {name for name in named if "*" in name and not list(ROOT.glob(name))}
    missing |= {link for link in LINK.findall(text) if not (page.parent / link).exists()}
    assert missing == set()


def test_the_pages_are_found() -> None:
    assert len(PAGES) > 15
    assert sum(len(NAMED.findall(page.read_text())) for page in PAGES) > 50
