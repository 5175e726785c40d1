from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from sandbox import InvalidSettingsError
from sandbox.errors import DatabaseUnavailableError
from sandbox.executions.database import SCHEMA_VERSION, create_tables, open_database, reading
from sandbox.executions.tables import EXECUTIONS, METADATA

if TYPE_CHECKING:
    from pathlib import Path


def test_a_database_is_made_and_opened_again(database: str) -> None:
    for _ in range(2):
        db = open_database(database)
        create_tables(db, METADATA)
        with reading(db) as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(EXECUTIONS)) == 0
        db.dispose()


def test_tables_of_a_newer_version_are_left_alone(database: str) -> None:
    db = open_database(database)
    with db.begin() as connection:
        connection.execute(sa.text("UPDATE schema_version SET version = version + 1"))
    db.dispose()
    with pytest.raises(InvalidSettingsError, match=f"knows those up to version {SCHEMA_VERSION}"):
        open_database(database)


def test_only_its_owner_reads_a_sqlite_file_and_what_lies_beside_it(tmp_path: Path) -> None:
    db = open_database(f"sqlite:///{tmp_path}/new/executions.db")
    with db.begin() as connection:
        METADATA.create_all(connection)
    files = list((tmp_path / "new").iterdir())
    assert {file.name for file in files} >= {"executions.db", "executions.db-wal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    db.dispose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root@localhost/x", "mysql is not supported"),
        ("no url at all", "cannot be used"),
        ("sqlite://", "needs a file"),
        ("postgresql+nothing://localhost/x", "cannot be used"),
    ],
)
def test_a_url_that_names_no_database_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidSettingsError, match=said):
        open_database(url)


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://me:hunter22@/x?host={tmp_path}"
    with pytest.raises(DatabaseUnavailableError) as caught:
        open_database(url)
    assert "hunter22" not in str(caught.value)
    assert "cannot be used" in caught.value.message


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "executions.db").write_bytes(b"something else altogether" * 100)
    with pytest.raises(DatabaseUnavailableError, match="not a database"):
        open_database(f"sqlite:///{tmp_path}/executions.db")
