"""docs/testing.md: its example runs, and the names in it are there."""

from __future__ import annotations

import re
from pathlib import Path

import sandbox.testing
from sandbox.testing import FakeProcess

PAGE = (Path(__file__).parents[2] / "docs/testing.md").read_text()


def test_the_example_runs_as_it_stands() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(example, "docs/testing.md", "exec"), {})


def test_every_way_of_a_process_to_behave_is_told_and_there() -> None:
    ways = {name for name in vars(FakeProcess) if not name.startswith("_")} - {"tell", "log"}
    told = set(re.findall(r"`(?:ctx\.process)?\.?([a-z_]+)\(", PAGE)) | {"respond"}
    assert ways <= told


def test_every_public_name_is_told() -> None:
    not_told = {name for name in sandbox.testing.__all__ if name not in PAGE}
    assert not_told <= {"FakeContainer", "FakeContext", "FakeProcess", "default_build"}
