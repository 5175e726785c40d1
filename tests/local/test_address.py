"""A socket is found by those, and only by those, who would get the same settings."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from sandbox.config.environment import PATH_SETTINGS
from sandbox.local.address import find_address

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "runtime").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def name(
    project: Path, functions: str = "functions", settings: str | None = None, **environment: str
) -> str:
    path = project / functions
    return find_address(path, project / settings if settings else None, environment).name


def test_one_directory_has_one_address_by_whatever_path(project: Path) -> None:
    (project / "link").symlink_to("functions")
    assert name(project) == name(project, "link") == name(project, "./functions/../functions")
    (project / "other").mkdir()
    assert name(project) != name(project, "other")


def test_settings_decide_by_their_content(project: Path) -> None:
    without = name(project)
    (project / "sandbox.yaml").write_text("concurrency: 2\n")
    two = name(project)
    assert two not in (without, name(project, settings="missing.yaml"))
    assert name(project, settings="sandbox.yaml") == two
    (project / "sandbox.yaml").write_text("concurrency: 3\n")
    assert name(project) != two


def test_variables_that_are_settings_decide_and_no_others(project: Path) -> None:
    plain = name(project)
    assert name(project, SANDBOX_CONCURRENCY="3") != plain
    assert name(project, DOCKER_HOST="unix:///x.sock") != plain
    assert name(project, HOME="/somewhere") != plain  # the store is there
    assert name(project, SANDBOX_DEBUG="1", SANDBOX_FUNCTIONS="x", LANG="C") == plain


def test_a_relative_path_in_a_variable_starts_at_the_working_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = name(project, SANDBOX_STORE="store")
    assert here == name(project, SANDBOX_STORE=str(project / "store"))
    monkeypatch.chdir(project / "functions")
    assert name(project, SANDBOX_STORE="store") != here


def test_names_that_are_no_utf_8_have_an_address(project: Path) -> None:
    assert len(name(project, os.fsdecode(b"\xff\xfe"))) == 32


def test_sockets_are_in_the_runtime_directory_else_in_the_cache(project: Path) -> None:
    runtime = str(project / "runtime")
    found = find_address(project, None, {"XDG_RUNTIME_DIR": runtime, "XDG_CACHE_HOME": "/c"})
    assert found.socket.parent == project / "runtime/alyx-sandbox"
    gone = find_address(project, None, {"XDG_RUNTIME_DIR": "/nowhere", "XDG_CACHE_HOME": "/c"})
    assert str(gone.socket.parent) == "/c/alyx-sandbox/sockets"


@pytest.mark.parametrize("setting", PATH_SETTINGS, ids=".".join)
@pytest.mark.parametrize("whole", [False, True], ids=["by itself", "within its section"])
def test_a_relative_path_means_another_file_in_another_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, ...], whole: bool
) -> None:
    *sections, field = setting
    if whole and sections:
        variable = f"SANDBOX_{sections[0].upper()}"
        value: object = {field: "file.pem"}
        for section in reversed(sections[1:]):
            value = {section: value}
        text = json.dumps(value)
    else:
        variable, text = f"SANDBOX_{'__'.join(setting).upper()}", "file.pem"
    here = name(project, **{variable: text})
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert name(project, **{variable: text}) != here
    assert name(project, **{variable: text.replace("file.pem", "../file.pem")}) == here
    assert name(project, **{variable: text.replace("file.pem", f"{project}/file.pem")}) == here


def test_a_url_means_the_same_everywhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"SANDBOX_SERVER__JWT__JWKS": "https://login.example.org/jwks.json"}
    here = name(project, **environment)
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert name(project, **environment) == here
