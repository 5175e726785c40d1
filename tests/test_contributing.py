"""What newcomers read is so: the commands of CONTRIBUTING.md, the hooks, the table of packages."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def make(*arguments: str) -> str:
    """What `make` prints."""
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_each_target_that_is_asked_for_is_one_that_make_explains() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    asked = set(re.findall(r"(?:`|    )make ([a-z-]+)", text))
    assert {"check", "fix", "test", "hooks"} <= asked
    explained = set(re.findall(r"^([a-z%-]+)", make("help"), re.MULTILINE))
    assert {re.sub("^image-(?!server$).*", "image-%", target) for target in asked} <= explained


def test_the_hooks_are_the_commands_of_make_check() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    hooks = local["hooks"]
    # `--assume-old` leaves out what installs the virtual environment.
    commands = make("--dry-run", "--assume-old=.venv/.dev", "check").splitlines()
    assert [hook["entry"] for hook in hooks] == commands
    assert {hook["language"] for hook in hooks} == {"system"}, "others download"


def test_the_page_about_the_architecture_has_the_sentence_of_every_package() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    packages = sorted(path.parent for path in (ROOT / "sandbox").glob("*/**/__init__.py"))
    assert len(packages) > 20
    for package in packages:
        docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
        sentence = " ".join(docstring.split("\n\n")[0].split())
        holds, excluded = re.fullmatch(r"(.+); must not know (.+)\.", sentence).groups()  # type: ignore[union-attr]
        assert f"| `{package.relative_to(ROOT)}/` | {holds} | {excluded} |" in page


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_each_path_that_is_named_exists(page: str) -> None:
    named = re.findall(
        r"`((?:sandbox|cli|images|scripts|tests|examples)/[\w./*-]*)`", (ROOT / page).read_text()
    )
    assert len(named) > 8
    assert [path for path in named if "NAME" not in path and not any(ROOT.glob(path))] == []
