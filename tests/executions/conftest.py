"""Fixtures for tests of the record: on SQLite and on a real PostgreSQL, each empty for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox import Settings
from sandbox.executions.store import ExecutionStore, open_store
from tests.postgresql import PostgreSQL, postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/executions.db"
    server: PostgreSQL = request.getfixturevalue("postgres")
    return server.url()


@pytest.fixture
def open_on(tmp_path: Path) -> Iterator[Callable[..., ExecutionStore]]:
    """`open_on(url, place="a", keep="1h")` opens the record there, with a store of that name."""
    stores: list[ExecutionStore] = []

    def open_one(url: str, *, place: str = "store", **executions: object) -> ExecutionStore:
        settings = Settings.model_validate(
            {
                "store": tmp_path / place,
                "server": {"executions": {"database": url, **executions}},
            }
        )
        stores.append(open_store(settings))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(database: str, open_on: Callable[..., ExecutionStore]) -> ExecutionStore:
    return open_on(database)
