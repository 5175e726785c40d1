"""The database of the server: where it is, how it is opened, and the version of its tables.

SQLite in a file of the store, or PostgreSQL at a URL. A transaction that writes takes SQLite's one
lock when it begins, so that it does not fail halfway because of another. Reads go through
`reading`, take no lock and see what is committed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sandbox.errors import DatabaseUnavailableError, InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.config.settings import Settings

# The version of all tables together. A change of any of them makes a new version.
SCHEMA_VERSION: Final = 1
_DIALECTS: Final = ("sqlite", "postgresql")
_BUSY_SECONDS: Final = 10
# The key of the lock that servers take to make tables: any number, the same in every server.
_MAKING_TABLES: Final = 0x616C7978

_version = sa.Table(
    "schema_version", sa.MetaData(), sa.Column("version", sa.Integer, primary_key=True)
)


def database_url(settings: Settings) -> str | sa.URL:
    """The URL that the settings give; without one, that of a SQLite file in the store."""
    if settings.server.executions.database is not None:
        return settings.server.executions.database
    store = settings.store_directory.absolute()
    return sa.URL.create("sqlite", database=str(store / "executions.db"))


def open_database(url: str | sa.URL) -> sa.Engine:
    """The database at `url`. Its tables have a version that this program knows.

    Safe to use from many threads; `dispose` closes it. A missing SQLite file is created, readable
    by its owner alone.

    Raises:
        InvalidSettingsError: the URL is not valid, its driver is missing, or the tables are of a
            newer version.
        DatabaseUnavailableError: it cannot be reached, or cannot be used.
    """
    database = _database(url)
    try:
        with using(database):
            _check_version(database)
    except BaseException:
        database.dispose()
        raise
    return database


def create_tables(database: sa.Engine, metadata: sa.MetaData) -> None:
    """Create the tables of `metadata` and their indexes that do not exist yet.

    Raises:
        DatabaseUnavailableError: the database cannot be used.
    """
    with using(database), database.begin() as connection:
        _lock_tables(connection)
        metadata.create_all(connection)


@contextlib.contextmanager
def reading(database: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reading; each statement sees what is committed when it begins."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@contextlib.contextmanager
def using(database: sa.Engine) -> Iterator[None]:
    """Turn errors of the driver into `DatabaseUnavailableError`, without passwords."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        raise unavailable(database, error) from error


def unavailable(database: sa.Engine, error: Exception) -> DatabaseUnavailableError:
    """The error to raise for an error of the driver."""
    reason = str(error.orig if isinstance(error, DBAPIError) else error).strip().partition("\n")[0]
    return DatabaseUnavailableError(
        f"the database {shown_url(database)} cannot be used: {reason}",
        hint="`server.executions.database` in the settings says which it is",
    )


def shown_url(database: sa.Engine) -> str:
    """The database's URL without its password."""
    return database.url.render_as_string(hide_password=True)


def _database(text: str | sa.URL) -> sa.Engine:
    try:
        url = sa.make_url(text)
        kind = url.get_backend_name()
        if kind not in _DIALECTS:
            raise ArgumentError(f"{kind} is not supported")
        if kind == "sqlite":
            return _sqlite(url)
        # Notice within seconds that a server has gone, and replace connections that it dropped.
        patience = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
        return sa.create_engine(
            url, pool_pre_ping=True, pool_timeout=_BUSY_SECONDS, connect_args=patience
        )
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidSettingsError(
            f"server.executions.database cannot be used: {error}",
            hint="it is sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME",
        ) from None
    except ModuleNotFoundError as error:
        raise InvalidSettingsError(
            f"server.executions.database needs the package {error.name}",
            hint="pip install 'alyx-sandbox[postgresql]'",
        ) from None


def _sqlite(url: sa.URL) -> sa.Engine:
    if not url.database:
        raise ArgumentError("sqlite needs a file")
    path = Path(url.database)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Created here for its mode. SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise DatabaseUnavailableError(
            f"the database {path} cannot be used: {error.strerror}"
        ) from error
    database = sa.create_engine(
        url,
        pool_timeout=_BUSY_SECONDS,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
    )

    @sa.event.listens_for(database, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # what was committed is there after a loss of power
            "foreign_keys = ON",
            "secure_delete = ON",  # deleted inputs are overwritten in the file
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(database, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return database


def _check_version(database: sa.Engine) -> None:
    with database.begin() as connection:
        _lock_tables(connection)
        _version.create(connection, checkfirst=True)
        version = connection.scalar(sa.select(sa.func.max(_version.c.version)))
        if version is None:
            connection.execute(_version.insert().values(version=SCHEMA_VERSION))
        elif version > SCHEMA_VERSION:
            raise InvalidSettingsError(
                f"the database {shown_url(database)} has tables of version {version}, and this "
                f"program knows those up to version {SCHEMA_VERSION}",
                hint="use the newer program that wrote it, or another database",
            )


def _lock_tables(connection: sa.Connection) -> None:
    """Keep other servers from making tables until the transaction ends, as SQLite does anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING_TABLES)))
