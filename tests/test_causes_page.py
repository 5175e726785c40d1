"""docs/causes.md says what is so: its table is that of the tests in real containers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandbox.config.settings import Settings
from sandbox.errors import Code
from sandbox.functions.manifest import Manifest
from sandbox.policy.container_spec import SMALLEST_PIDS_UNDER_GVISOR
from sandbox.policy.limits import LARGEST_SHM
from sandbox.protocol.json_values import MAX_CONTAINERS, MAX_DEPTH
from sandbox.protocol.logs import MIN_ENTRY
from sandbox.protocol.redaction import SHORTEST
from tests.docker.test_causes import CASES

PAGE = (Path(__file__).parents[1] / "docs" / "causes.md").read_text()
# Symptom, code, setting.
ROWS = {
    symptom.replace("`", ""): (code.strip("`"), setting)
    for symptom, code, setting in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|", PAGE, re.MULTILINE)
    if symptom not in ("symptom", "---")
}
# Held to by other tests: tests/invocation/test_outcome.py, tests/docker/test_executor.py.
ELSEWHERE = {"a run that takes too long", "a file that cannot be run", "a build that fails"}


def test_the_table_has_a_row_for_each_case() -> None:
    assert ROWS.keys() == CASES.keys() | ELSEWHERE


@pytest.mark.parametrize("symptom", CASES)
def test_a_row_says_how_its_case_ends(symptom: str) -> None:
    case = CASES[symptom]
    code, setting = ROWS[symptom]
    assert code == (case.ends if case.ends not in ("OK", "FUNCTION_ERROR") else "its own")
    if case.setting is not None:
        assert setting == f"`{case.setting}`"
    elif case.hits:
        assert setting == f"in `limits_hit`: `{case.hits[0]}`"
    else:
        assert setting == "none"


def test_each_code_and_each_setting_of_the_table_exists() -> None:
    for code, setting in ROWS.values():
        assert code in (*Code, "its own", "EMFILE")
        if setting == "none":
            continue
        section, _, name = setting.split("`")[-2].rpartition(".")
        if section:
            assert name in type(getattr(Settings(), section)).model_fields
        else:
            assert name in Manifest.model_fields


def test_the_numbers_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"{MAX_DEPTH} levels, and {MAX_CONTAINERS:,} objects and arrays" in text
    assert f"at least {SMALLEST_PIDS_UNDER_GVISOR}." in text
    assert f"counts as at least {MIN_ENTRY} bytes" in text
    assert f"up to {LARGEST_SHM >> 20}mb" in text
    assert SHORTEST == 6
    assert "fewer than six characters" in text
