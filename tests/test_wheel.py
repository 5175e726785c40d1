"""What is in the wheel; tests/docker installs it elsewhere."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_does_not_claim_other_people_s_names(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {
        "sandbox", "sandbox_cli", "sandbox_images",
    }  # fmt: skip


def test_the_wheel_has_every_file_of_its_folders_and_no_other(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "ls-files", "sandbox", "cli", "images"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert len(tracked) > 200
    names = (re.sub(r"^(cli|images)/", r"sandbox_\1/", name) for name in tracked)
    assert packed == set(names)
