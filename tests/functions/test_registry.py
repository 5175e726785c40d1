from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandbox.errors import FunctionNotFoundError, InvalidManifestError
from sandbox.functions.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.functions.manifest import Hook, Route, Schedule

EVENTS = """
hooks:
  - {type: auth, source: user, action: signup}
  - {type: webhook, verification: {type: hmac-sha256, header: X, secret: s}}
schedules: [{name: often, type: interval, expression: 5m}]
routes: [{path: /hello, methods: [get]}]
"""


class Recorder:
    """A registrar that keeps what it is told, and fails for the functions in `broken`."""

    def __init__(self, *broken: str) -> None:
        self.registered: dict[str, tuple[list[str], list[str], list[str]]] = {}
        self.calls: list[str] = []
        self.broken = set(broken)

    def register(
        self,
        function: str,
        *,
        hooks: tuple[Hook, ...],
        schedules: tuple[Schedule, ...],
        routes: tuple[Route, ...],
    ) -> None:
        self.calls.append(f"+{function}")
        if function in self.broken:
            raise RuntimeError("no room")
        self.registered[function] = (
            [hook.type for hook in hooks],
            [schedule.name for schedule in schedules],
            [route.path for route in routes],
        )

    def unregister(self, function: str) -> None:
        self.calls.append(f"-{function}")
        if function in self.broken:
            raise RuntimeError("still busy")
        self.registered.pop(function, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "functions"
    for name in ("hello", "greet", "broken"):
        (directory / name).mkdir(parents=True)
        (directory / name / "index.py").write_text("")
    (directory / "broken/function.yaml").write_text("memroy: 1\npdis: 2\n")
    return directory


def test_functions_are_found_by_name(root: Path) -> None:
    registry = Registry(root)
    assert list(registry.functions) == ["greet", "hello"]
    assert registry.get("hello").name == "hello"
    assert [problem.function for problem in registry.problems] == ["broken", "broken"]


def test_the_functions_cannot_be_changed(root: Path) -> None:
    functions = Registry(root).functions
    with pytest.raises(TypeError):
        functions["x"] = functions["hello"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "near"),
    [("helo", ["hello"]), ("gret", ["greet"]), ("brokn", ["broken"]), ("zzz", [])],
)
def test_a_function_that_is_not_there(root: Path, name: str, near: list[str]) -> None:
    with pytest.raises(FunctionNotFoundError) as caught:
        Registry(root).get(name)
    assert caught.value.details["near"] == near
    assert f"there is no function '{name}'" in str(caught.value)
    assert ("did you mean" in str(caught.value)) == bool(near)


@pytest.mark.parametrize("name", ["", "../hello", "hello/", "x" * 100_000, "\x00", "\x1b[2J"])
def test_any_name_can_be_asked_for(root: Path, name: str) -> None:
    with pytest.raises(FunctionNotFoundError) as caught:
        Registry(root).get(name)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_function_with_a_bad_manifest_says_so(root: Path) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        Registry(root).get("broken")
    assert len(caught.value.details["problems"]) == 2
    assert "functions/broken/function.yaml:1:1: error: unknown field 'memroy'" in str(caught.value)
    assert "(and 1 more)" in str(caught.value)


def test_a_missing_directory_is_said_where_a_function_is_asked_for(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "missing")
    assert registry.functions == {}
    with pytest.raises(FunctionNotFoundError, match="the functions directory cannot be used"):
        registry.get("hello")


def test_a_reload_sees_what_changed(root: Path) -> None:
    registry = Registry(root)
    before = registry.functions
    (root / "broken/function.yaml").write_text("memory: 64mb")
    (root / "hello/index.py").unlink()
    registry.reload()
    assert list(registry.functions) == ["broken", "greet"]
    assert registry.problems == ()
    assert list(before) == ["greet", "hello"]


def test_a_registrar_is_told_what_manifests_ask_for(root: Path) -> None:
    (root / "hello/function.yaml").write_text(EVENTS)
    recorder = Recorder()
    Registry(root, registrar=recorder)
    assert recorder.registered == {
        "hello": (["auth", "webhook"], ["often"], ["/hello"]),
        "greet": ([], [], []),
    }


def test_a_reload_replaces_what_was_registered(root: Path) -> None:
    manifest = root / "hello/function.yaml"
    manifest.write_text(EVENTS)
    recorder = Recorder()
    registry = Registry(root, registrar=recorder)
    manifest.write_text("")
    (root / "greet/index.py").unlink()
    registry.reload()
    assert recorder.registered == {"hello": ([], [], [])}


def test_a_function_whose_manifest_turns_bad_is_unregistered(root: Path) -> None:
    recorder = Recorder()
    registry = Registry(root, registrar=recorder)
    (root / "hello/function.yaml").write_text("x: 1")
    registry.reload()
    assert list(recorder.registered) == ["greet"]


def test_a_registrar_that_fails_for_one_does_not_stop_the_others(root: Path) -> None:
    recorder = Recorder("greet")
    registry = Registry(root, registrar=recorder)
    assert list(recorder.registered) == ["hello"]
    (warning,) = [item for item in registry.problems if item.severity == "warning"]
    assert warning.function == "greet"
    assert "could not be registered: no room" in str(warning)
    assert registry.get("greet").name == "greet"


def test_a_removal_that_failed_is_tried_again(root: Path) -> None:
    recorder = Recorder()
    registry = Registry(root, registrar=recorder)
    (root / "greet/index.py").unlink()
    recorder.broken.add("greet")
    registry.reload()
    recorder.broken.clear()
    recorder.calls.clear()
    registry.reload()
    assert recorder.calls == ["-greet", "+hello"]
    recorder.calls.clear()
    registry.reload()
    assert recorder.calls == ["+hello"]


def test_readers_see_one_snapshot_or_the_next(root: Path) -> None:
    """While two functions are swapped for two others, no reader sees one of each."""
    registry = Registry(root)
    before, after = frozenset({"hello", "greet"}), frozenset({"hello2", "greet2"})
    done = threading.Event()
    seen: set[frozenset[str]] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(frozenset(registry.functions))

    def show_only(names: frozenset[str]) -> None:
        for name in before | after:
            directory = root / name
            directory.mkdir(exist_ok=True)
            (directory / "index.py").unlink(missing_ok=True)
            if name in names:
                (directory / "index.py").write_text("")
        registry.reload()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        for names in itertools.cycle((after, before)):
            show_only(names)
            if len(seen) > 1 or time.monotonic() > deadline:
                break
    finally:
        done.set()
        thread.join()
    assert seen == {before, after}
