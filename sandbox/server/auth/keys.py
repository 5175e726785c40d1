"""API keys: how they look, and the table of the server's database that they are kept in.

A key is `sk_ID_SECRET`. Only a SHA-256 digest of the secret is kept. That hash is fast on purpose:
slow ones such as scrypt make guesses expensive where people choose the secret. Here it is 256
random bits, which nobody guesses at any speed, and every request has to be checked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from sandbox.errors import InvalidRequestError
from sandbox.executions.database import create_tables, reading, using

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sandbox.config.server_settings import CallerLimits, Scope

PREFIX: Final = "sk_"
LONGEST_NAME: Final = 100
MOST_PATTERNS: Final = 100

_FORM: Final = re.compile(r"sk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)
_PATTERN: Final = re.compile(r"[A-Za-z0-9_*?-]{1,63}", re.ASCII)
# What is compared with where there is no such key, so that it takes as long.
_NOBODY: Final = bytes(32)

_metadata = sa.MetaData()
_keys = sa.Table(
    "api_keys",
    _metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(LONGEST_NAME), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("functions", sa.JSON, nullable=False),
    sa.Column("rate", sa.Integer),
    sa.Column("concurrency", sa.Integer),
    sa.Column("body", sa.BigInteger),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53)),
    sa.Column("revoked_at", sa.Float(53)),
    sa.Column("last_used_at", sa.Float(53)),
)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as it is kept. Times are seconds since the epoch, `body` is in bytes.

    `rate`, `concurrency` and `body` are None where the server's own limit holds.
    """

    id: str
    name: str
    digest: bytes
    scopes: tuple[Scope, ...]
    functions: tuple[str, ...] = ("*",)
    rate: int | None = None
    concurrency: int | None = None
    body: int | None = None
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    def limits(self, most: CallerLimits) -> CallerLimits:
        """Its limits: its own, and nowhere more than `most`."""
        own = {"rate": self.rate, "concurrency": self.concurrency, "body": self.body}
        lower = {
            name: min(value, getattr(most, name))
            for name, value in own.items()
            if value is not None
        }
        return most.model_copy(update=lower)

    def to_dict(self) -> dict[str, Any]:
        """The key as a JSON value, without its digest."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "digest"}


def parse_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key; None if `text` does not have the form of one."""
    match = _FORM.fullmatch(text)
    return None if match is None else (match[1], match[2])


def matches(key: ApiKey | None, secret: str) -> bool:
    """Whether it is the key's secret, in a time that tells nothing of it."""
    kept = _NOBODY if key is None else key.digest
    same = hmac.compare_digest(kept, _digest(secret))
    return same and key is not None


class KeyStore:
    """The keys in the server's database. Safe to use from many threads and processes.

    All methods raise `DatabaseUnavailableError` where the database cannot be used.
    """

    def __init__(self, database: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        create_tables(database, _metadata)

    def create(  # noqa: PLR0913
        self,
        name: str,
        *,
        scopes: Sequence[Scope] = ("invoke",),
        functions: Sequence[str] = ("*",),
        rate: int | None = None,
        concurrency: int | None = None,
        body: int | None = None,
        expires_at: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text `sk_…`, which cannot be had again.

        Raises:
            InvalidRequestError: a value cannot be used.
        """
        now = self._clock()
        _check(name, scopes, functions, (rate, concurrency, body))
        if expires_at is not None and expires_at <= now:
            raise InvalidRequestError("the key would have expired already")
        secret = secrets.token_hex(32)
        key = ApiKey(
            id=secrets.token_hex(8),
            name=name,
            digest=_digest(secret),
            scopes=tuple(dict.fromkeys(scopes)),
            functions=tuple(dict.fromkeys(functions)),
            rate=rate,
            concurrency=concurrency,
            body=body,
            created_at=now,
            expires_at=expires_at,
        )
        row = {**key.to_dict(), "digest": key.digest}
        row |= {"scopes": list(key.scopes), "functions": list(key.functions)}
        with using(self._database), self._database.begin() as connection:
            connection.execute(_keys.insert().values(row))
        return key, f"{PREFIX}{key.id}_{secret}"

    def list(self, *, revoked: bool = True) -> list[ApiKey]:
        """All keys, or those that are not revoked; the oldest first."""
        query = _keys.select().order_by(_keys.c.created_at, _keys.c.id)
        if not revoked:
            query = query.where(_keys.c.revoked_at.is_(None))
        with using(self._database), reading(self._database) as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str) -> bool:
        """Revoke a key for good; whether there was one of that id that was not revoked."""
        change = (
            _keys.update()
            .where(_keys.c.id == key_id, _keys.c.revoked_at.is_(None))
            .values(revoked_at=self._clock())
        )
        with using(self._database), self._database.begin() as connection:
            return connection.execute(change).rowcount > 0

    def note_used(self, used: Mapping[str, float]) -> None:
        """Write down when keys were used last, by their ids."""
        change = (
            _keys.update()
            .where(_keys.c.id == sa.bindparam("key"))
            .values(last_used_at=sa.bindparam("at"))
        )
        with using(self._database), self._database.begin() as connection:
            connection.execute(change, [{"key": key, "at": at} for key, at in used.items()])


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("ascii")).digest()


def _key(row: Mapping[Any, Any]) -> ApiKey:
    return ApiKey(**{**row, "scopes": tuple(row["scopes"]), "functions": tuple(row["functions"])})


def _check(
    name: str, scopes: Sequence[str], functions: Sequence[str], limits: Iterable[int | None]
) -> None:
    """Raises InvalidRequestError for what cannot be kept, or would allow nothing."""
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise InvalidRequestError(f"a key's name has 1 to {LONGEST_NAME} characters, on one line")
    if not scopes or not functions:
        raise InvalidRequestError("a key needs a scope and a pattern of functions")
    if len(functions) > MOST_PATTERNS:
        raise InvalidRequestError(f"a key can have {MOST_PATTERNS} patterns of functions")
    for pattern in functions:
        if not _PATTERN.fullmatch(pattern):
            raise InvalidRequestError(
                f"{pattern!r} is no pattern of functions",
                hint="a name, in which * stands for any part and ? for one character",
            )
    if any(limit is not None and limit < 1 for limit in limits):
        raise InvalidRequestError("a key's limits are above zero")
