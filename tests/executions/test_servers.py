from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox.executions.database import create_tables, open_database
from sandbox.executions.servers import ServerHeartbeat
from sandbox.executions.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa


@pytest.fixture
def db(database: str) -> Iterator[sa.Engine]:
    db = open_database(database)
    create_tables(db, METADATA)
    yield db
    db.dispose()


def test_on_one_store_a_server_is_dead_as_soon_as_its_process_is(
    db: sa.Engine, tmp_path: Path
) -> None:
    one, other = ServerHeartbeat(db, tmp_path), ServerHeartbeat(db, tmp_path)
    assert one.others() == {other.id}
    assert one.dead({one.id, other.id}) == set()
    other.close()  # lets go of its lock, as the kernel does when a process is killed
    assert one.dead({one.id, other.id}) == {other.id}
    one.forget({other.id})
    assert one.others() == set()
    assert one.dead({other.id}) == {other.id}
    one.close()


def test_elsewhere_a_server_is_dead_when_it_was_silent_for_long(
    db: sa.Engine, tmp_path: Path
) -> None:
    now = 0.0
    here = ServerHeartbeat(db, tmp_path / "here", clock=lambda: now)
    there = ServerHeartbeat(db, tmp_path / "there")
    for now in (0.0, 50.0):  # noqa: B007 - the clock reads it
        assert here.dead({there.id}) == set()
    there.beat()
    for now in (100.0, 150.0):  # noqa: B007 - the same
        assert here.dead({there.id}) == set()
    now = 161.0
    assert here.dead({there.id}) == {there.id}
    there.beat()
    assert here.dead({there.id}) == set()
    here.close()
    there.close()
