"""The record of executions: commands read it in the database, and need no server."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from .options import Common


@contextlib.contextmanager
def record(common: Common) -> Iterator[sa.Engine]:
    """The database that the settings name.

    Raises:
        InvalidSettingsError, DatabaseUnavailableError: see `open_database`.
    """
    try:
        from sandbox.executions.database import (  # noqa: PLC0415 - an optional extra
            create_tables,
            database_url,
            open_database,
        )
        from sandbox.executions.tables import METADATA  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"this needs the package {error.name}: pip install 'alyx-sandbox[serve]'"
        ) from None
    database = open_database(database_url(common.settings()))
    try:
        create_tables(database, METADATA)
        yield database
    finally:
        database.dispose()
