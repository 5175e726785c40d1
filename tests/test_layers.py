"""The contracts on imports hold, and `make check` fails where they are broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages, under the names that they are imported by."""
    for folder, name in {"sandbox": "sandbox", "cli": "sandbox_cli"}.items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken_contracts(project: Path) -> set[str]:
    """The names of the contracts that `make check` would complain of."""
    lint = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run(
        [lint, "--no-cache", "--no-logo"], cwd=project, capture_output=True, text=True, timeout=120
    )
    broken = set(re.findall(r"^(.+) BROKEN", ended.stdout, re.MULTILINE))
    assert ended.returncode == bool(broken), ended.stdout + ended.stderr
    return broken


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("sandbox/units.py", "from sandbox.pool.pool import Pool", "Imports go down"),
        ("sandbox/server/auth/__init__.py", "import sandbox.server.service",
         "Imports of the server go down"),
        ("sandbox/pool/plan.py", "import docker", "Only sandbox.engine.docker knows Docker"),
        ("sandbox_cli/serve.py", "import starlette", "Only the server knows HTTP"),
        ("sandbox/units.py", "import click", "Only the command line knows click"),
    ],
)  # fmt: skip
def test_an_import_in_the_wrong_direction_breaks_a_contract_also_where_only_types_need_it(
    project: Path, module: str, line: str, contract: str
) -> None:
    path = project / module
    source = path.read_text()
    path.write_text(f"{source}\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}\n")
    assert contract in broken_contracts(project)


def test_no_contract_is_broken(project: Path) -> None:
    assert broken_contracts(project) == set()
