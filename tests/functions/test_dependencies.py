"""What a function depends on, told from its files."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import InvalidManifestError
from sandbox.functions.dependencies import _project_dependencies, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sandbox.functions.function import Function


class Files:
    """A function's files, by path."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def read(self, name: str) -> bytes | None:
        text = self._files.get(name)
        return None if text is None else text.encode()

    def has_directory(self, name: str) -> bool:
        return any(path.startswith(f"{name}/") for path in self._files)

    def scripts(self) -> Iterable[bytes]:
        return [
            text.encode() for name, text in self._files.items() if name.endswith((".ts", ".js"))
        ]


NODE = "runtime: node\nentrypoint: index.js\n"
PYTHON = "runtime: python\n"


def package(**fields: object) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("manifest", "files"),
    [
        (PYTHON, {"index.py": ""}),
        (PYTHON, {"requirements.txt": " \n"}),
        (PYTHON, {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"}),
        (PYTHON, {"package.json": package(dependencies={"zod": "1"})}),
        (NODE, {"package.json": package(type="module")}),
        (NODE, {"package.json": package(devDependencies={"typescript": "5"})}),
        (NODE, {"package.json": package(dependencies={"a": "1"}), "node_modules/a/i.js": ""}),
        (NODE, {"package.json": "no JSON"}),
        (NODE, {"package.json": "[" * 100_000}),
        ("runtime: deno\nentrypoint: index.js\n", {"deno.json": "{}", "index.js": "'a npm:b'"}),
        ("runtime: binary\nentrypoint: run\n", {"package.json": package(dependencies={"a": "1"})}),
    ],
)
def test_nothing_is_installed_where_nothing_is_needed(
    function: Callable[[str], Function], manifest: str, files: dict[str, str]
) -> None:
    assert find(function(manifest), Files(files)) is None


@pytest.mark.parametrize(
    ("files", "text", "locked"),
    [
        ({"requirements.txt": "requests==2.32.3\n"}, "requests==2.32.3\n", True),
        ({"requirements.txt": "requests\n"}, "requests\n", False),
        (
            {"pyproject.toml": '[project]\ndependencies = ["a==1", "b==2"]\n'},
            "a==1\nb==2\n",
            True,
        ),
        (
            {"requirements.txt": "a\n", "pyproject.toml": '[project]\ndependencies=["b"]'},
            "a\n",
            False,
        ),
    ],
)
def test_python_s_requirements_are_found(
    function: Callable[[str], Function], files: dict[str, str], text: str, locked: bool
) -> None:
    request = find(function(PYTHON), Files(files))
    assert request is not None
    assert (request.files[".alyx-requirements.txt"].decode(), request.locked) == (text, locked)
    assert not request.whole


@pytest.mark.parametrize(
    "line",
    ["./local", "local-1.0.tar.gz", "-r others.txt", "-c constraints.txt", "pkg @ file:///src/pkg",
     "-e .", "sub/pkg"],
)  # fmt: skip
def test_requirements_that_name_files_depend_on_all_files(
    function: Callable[[str], Function], line: str
) -> None:
    """Or what is installed would not change with them."""
    request = find(function(PYTHON), Files({"requirements.txt": f"requests\n{line}\n"}))
    assert request is not None
    assert request.whole


@pytest.mark.parametrize(
    "fields",
    [
        {"dependencies": {"a": "file:../a"}},
        {"dependencies": {"a": "./a"}},
        {"dependencies": {"a": "1"}, "scripts": {"postinstall": "node x.js"}},
        {"dependencies": {"a": "1"}, "workspaces": ["packages/*"]},
    ],
)
def test_a_package_that_reads_other_files_depends_on_all(
    function: Callable[[str], Function], fields: dict[str, object]
) -> None:
    request = find(function(NODE), Files({"package.json": package(**fields)}))
    assert request is not None
    assert request.whole


def test_other_scripts_and_files_do_not_decide_what_is_installed(
    function: Callable[[str], Function],
) -> None:
    """An edit of the code installs nothing anew."""
    made = function(NODE)
    files = {"package.json": package(dependencies={"a": "1"}, scripts={"test": "x"})}
    request = find(made, Files(files | {"index.js": "1"}))
    assert request == find(made, Files(files | {"index.js": "2"}))
    assert request is not None
    assert not request.whole


def test_a_lock_makes_it_locked(function: Callable[[str], Function]) -> None:
    files = {"package.json": package(dependencies={"a": "1"})}
    made = function(NODE)
    found = [find(made, Files(files)), find(made, Files(files | {"package-lock.json": "{}"}))]
    assert [request is not None and request.locked for request in found] == [False, True]


def test_a_build_gets_what_it_needs_for_development(function: Callable[[str], Function]) -> None:
    files = Files({"package.json": package(devDependencies={"typescript": "5"})})
    made = function(NODE)
    assert find(made, files) is None
    request = find(made, files, development=True)
    assert request is not None
    assert request.development


def test_deno_s_specifiers_are_gathered_from_all_files(
    function: Callable[[str], Function],
) -> None:
    files = {
        "deno.json": '{"imports": {"zod": "npm:zod@^3", "std/": "jsr:/@std/"}}',
        "index.js": 'import a from "npm:lodash@4/chunk.js";\nfetch("https://api.example.org/")',
        "lib.ts": "export * from 'https://code.example.org/mod.ts'; import('jsr:@std/path@1');",
    }
    request = find(function("runtime: deno\nentrypoint: index.js\n"), Files(files))
    assert request is not None
    assert request.packages == (
        "https://code.example.org/mod.ts", "jsr:@std/path@1", "npm:lodash@4/chunk.js", "npm:zod@^3",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (f"{NODE}dependencies: other.lock\n", "reads package.json"),
        ("runtime: deno\nentrypoint: index.js\ndependencies: other.lock\n", "reads deno.json"),
        ("runtime: binary\nentrypoint: run\ndependencies: [a]\n", "no installer"),
    ],
)
def test_a_file_that_the_installer_does_not_read_is_told(
    function: Callable[[str], Function], manifest: str, message: str
) -> None:
    with pytest.raises(InvalidManifestError, match=message):
        find(function(manifest), Files({}))


@pytest.mark.parametrize(
    "text",
    ["[", "a = " + "[" * 100_000, "[project]\ndependencies = 'a'", "[project]\ndependencies = [1]",
     'project = "a"\n', "[project]\ndependencies = ['--index-url=x']"],
)  # fmt: skip
def test_a_pyproject_that_is_none_is_told(function: Callable[[str], Function], text: str) -> None:
    with pytest.raises(InvalidManifestError, match=r"pyproject\.toml"):
        find(function(PYTHON), Files({"pyproject.toml": text}))


@given(st.binary(max_size=200))
def test_any_pyproject_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(_project_dependencies(content), list)
