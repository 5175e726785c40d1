"""`warm`, `reuse` and `runtime_class` of a manifest under the operator's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox.config.settings import Settings
from sandbox.functions.discovery import discover
from sandbox.policy.limits import Policy, effective_policy

if TYPE_CHECKING:
    from pathlib import Path


def policy(tmp_path: Path, manifest: str, **settings: object) -> Policy:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "index.py").touch()
    (tmp_path / "f" / "function.yaml").write_text(manifest)
    [function] = discover(tmp_path).functions
    return effective_policy(function, Settings.model_validate(settings))


@pytest.mark.parametrize(("manifest", "warm"), [("", 1), ("warm: 0", 0), ("warm: 2", 2)])
def test_warm_is_what_is_asked_for_else_the_operators(
    tmp_path: Path, manifest: str, warm: int
) -> None:
    got = policy(tmp_path, manifest, pool={"min_warm": 1})
    assert (got.warm, got.notes) == (warm, ())


def test_warm_has_a_ceiling(tmp_path: Path) -> None:
    got = policy(tmp_path, "warm: 9", pool={"max_warm": 3})
    assert got.warm == 3
    assert ["pool.max_warm" in str(note) for note in got.notes] == [True]


def test_reuse_is_the_operators_to_allow(tmp_path: Path) -> None:
    got = policy(tmp_path, "reuse: 9")
    assert got.reuse == 1
    assert ["ceilings.reuse" in str(note) for note in got.notes] == [True]


def test_reuse_that_is_allowed_is_given(tmp_path: Path) -> None:
    got = policy(tmp_path, "reuse: 9", ceilings={"reuse": 100})
    assert (got.reuse, got.notes) == (9, ())


@pytest.mark.parametrize(
    ("asked", "demanded", "used", "clamped"),
    [
        (None, "auto", "auto", False),
        (None, "gvisor", "gvisor", False),
        ("gvisor", "auto", "gvisor", False),
        ("gvisor", "crun", "gvisor", False),
        ("runc", "auto", "runc", False),
        ("crun", "gvisor", "gvisor", True),
        ("runc", "crun", "crun", True),
    ],
)
def test_a_manifest_may_only_tighten_the_runtime_class(
    tmp_path: Path, asked: str | None, demanded: str, used: str, clamped: bool
) -> None:
    manifest = "" if asked is None else f"runtime_class: {asked}"
    got = policy(tmp_path, manifest, engine={"runtime_class": demanded})
    assert got.runtime_class == used
    assert ["engine.runtime_class" in str(note) for note in got.notes] == [True] * clamped
