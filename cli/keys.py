"""`sandbox keys`: API keys of `sandbox serve`. A running server sees changes within a second."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from sandbox.config.server_settings import Scope
from sandbox.errors import InvalidRequestError
from sandbox.executions.database import database_url, open_database
from sandbox.server.auth.api_keys import KeySpec, KeyStore
from sandbox.units import parse_size

from .options import Common, common_options
from .output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.server.auth.api_keys import ApiKey

_DAYS: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)


@click.group
def keys() -> None:
    """Create, list and revoke the API keys of `sandbox serve`."""


def _expiry(text: str) -> float:
    """Seconds since the epoch, from `90d` or a date; the type of an option."""
    days = _DAYS.fullmatch(text)
    if days is not None:
        return time.time() + int(days[1]) * 86400
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither days (90d) nor a date") from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@keys.command
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(get_args(Scope)),
    multiple=True,
    default=("invoke",),
    show_default=True,
    help="What the key permits; may be given more than once.",
)
@click.option(
    "--function",
    "functions",
    metavar="PATTERN",
    multiple=True,
    default=("*",),
    show_default=True,
    help="Functions that it may invoke, such as mail-*; may be given more than once.",
)
@click.option("--rate", type=click.IntRange(1), help="Requests per second.")
@click.option("--concurrency", type=click.IntRange(1), help="Requests at the same time.")
@click.option("--body", metavar="SIZE", type=_size, help="Size of a request's body.")
@click.option(
    "--expires",
    "expires_at",
    metavar="WHEN",
    type=_expiry,
    help="Days (90d) or a date in UTC (2030-12-31).  [default: never]",
)
@common_options
def create(common: Common, **spec: Any) -> None:
    """Create a key and print it. It is not stored, and not shown again.

    Its limits apply in addition to `server.limits` in the settings.
    """
    with _store(common) as store:
        key, text = store.create(KeySpec(**spec))
    if common.json:
        print_json({"key": text, **key.to_dict()})
        return
    click.echo(text)
    click.echo(f"key {key.id}, {key.name!r}: it is not shown again", err=True)


@keys.command("list")
@common_options
def list_keys(common: Common) -> None:
    """List the keys, also revoked ones, the oldest first.

    The server records once a minute when a key was last used.
    """
    with _store(common) as store:
        found = store.list()
    if common.json:
        print_json([key.to_dict() for key in found])
        return
    print_table(
        ("ID", "NAME", "STATE", "SCOPES", "FUNCTIONS", "LIMITS", "CREATED", "LAST USED"),
        [
            (
                key.id,
                key.name,
                _state(key),
                " ".join(key.scopes),
                " ".join(key.functions),
                _limits(key),
                _date(key.created_at),
                _date(key.last_used_at),
            )
            for key in found
        ],
    )


@keys.command
@click.argument("key_id", metavar="ID")
@common_options
def revoke(common: Common, key_id: str) -> None:
    """Revoke a key for good. A running server refuses it within a second."""
    with _store(common) as store:
        if not store.revoke(key_id):
            raise InvalidRequestError(
                f"there is no valid key {key_id}",
                hint="`sandbox keys list` shows the ids of keys",
            )
    if common.json:
        print_json({"revoked": key_id})
        return
    click.echo(f"revoked {key_id}")


@contextmanager
def _store(common: Common) -> Iterator[KeyStore]:
    database = open_database(database_url(common.settings()))
    try:
        yield KeyStore(database)
    finally:
        database.dispose()


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "valid"
    return f"{'expired' if key.expires_at <= time.time() else 'until'} {_date(key.expires_at)}"


def _limits(key: ApiKey) -> str:
    limits = {"rate": key.rate, "concurrency": key.concurrency, "body": key.body}
    return " ".join(f"{name}={value}" for name, value in limits.items() if value is not None) or "-"


def _date(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
