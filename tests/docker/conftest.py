"""Fixtures for tests against the real engine. `make test` has started it and built the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, Settings
from sandbox.engine.docker.engine import DockerEngine
from sandbox.store.owners import LABEL_STORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.models import FunctionResponse


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    engine = DockerEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for the whole run, so that Go functions are compiled once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def settings(store: Path) -> Settings:
    """Nothing is booted ahead: tests of that have their own."""
    return Settings.model_validate({"store": store, "pool": {"enabled": False}})


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(engine: DockerEngine, store: Path) -> Iterator[None]:
    """After the whole run, no container of ours is left."""
    yield
    store_id = (store / "id").read_text() if (store / "id").exists() else "none"
    assert engine.containers({LABEL_STORE: store_id}) == []


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    """An empty functions directory."""
    directory = tmp_path / "functions"
    directory.mkdir()
    return directory


@pytest.fixture
def write(functions: Path) -> Callable[..., None]:
    """`write("name/index.py", text)` puts a file into the functions directory."""

    def write_file(path: str, text: str | bytes, *, mode: int = 0o644) -> None:
        target = functions / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        target.chmod(mode)

    return write_file


@pytest.fixture
def invoke(
    functions: Path, engine: DockerEngine, settings: Settings
) -> Iterator[Callable[..., FunctionResponse]]:
    """`invoke("name", {...})` runs a function of the functions directory as it is now."""
    sandboxes: list[Sandbox] = []

    def run(
        name: str, input: dict | None = None, *, limits: Settings | None = None, **options: object
    ) -> FunctionResponse:
        sandbox = Sandbox(functions, settings=limits or settings, engine=engine)
        sandboxes.append(sandbox)
        return sandbox.invoke(name, input, **options)

    yield run
    for sandbox in sandboxes:
        sandbox.close()
