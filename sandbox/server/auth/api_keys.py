"""API keys: their form, and the table in the server's database that stores them.

A key is `sk_ID_SECRET`. Only a SHA-256 digest of the secret is stored. That hash is fast on
purpose: a slow one such as scrypt makes guesses expensive where people choose the secret. This
secret is 256 random bits, which nobody guesses at any speed, and every request checks one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from sandbox.errors import InvalidRequestError
from sandbox.executions.database import create_tables, reading, using

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.config.server_settings import CallerLimits, Scope

PREFIX: Final = "sk_"
MAX_NAME_LENGTH: Final = 100
MAX_PATTERNS: Final = 100

_FORM: Final = re.compile(r"sk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)
_PATTERN: Final = re.compile(r"[A-Za-z0-9_*?-]{1,63}", re.ASCII)
# Compared with the secret of an unknown key, so that a refusal takes as long as for a known one.
_NO_DIGEST: Final = bytes(32)

_metadata = sa.MetaData()
_keys = sa.Table(
    "api_keys",
    _metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(MAX_NAME_LENGTH), nullable=False),
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
class KeySpec:
    """What a key is for. `functions` are patterns; `expires_at` is in seconds since the epoch.

    `rate` (requests in a second), `concurrency` and `body` (bytes) are None where the server's
    own limit holds.
    """

    name: str
    scopes: tuple[Scope, ...] = ("invoke",)
    functions: tuple[str, ...] = ("*",)
    rate: int | None = None
    concurrency: int | None = None
    body: int | None = None
    expires_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class ApiKey(KeySpec):
    """A stored key. Times are in seconds since the epoch."""

    id: str
    digest: bytes
    created_at: float
    revoked_at: float | None = None
    last_used_at: float | None = None

    def limits(self, most: CallerLimits) -> CallerLimits:
        """The limits of its caller: its own, but never more than `most`."""
        own = {"rate": self.rate, "concurrency": self.concurrency, "body": self.body}
        lower = {
            name: min(value, getattr(most, name))
            for name, value in own.items()
            if value is not None
        }
        return most.model_copy(update=lower)

    def to_dict(self) -> dict[str, Any]:
        values = {"id": self.id} | asdict(self)
        del values["digest"]
        return values


def parse_key(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key; None if `text` does not have the form of one."""
    match = _FORM.fullmatch(text)
    return None if match is None else (match[1], match[2])


def matches(key: ApiKey | None, secret: str) -> bool:
    """Whether it is the key's secret, in a time that reveals nothing about it."""
    stored = _NO_DIGEST if key is None else key.digest
    same = hmac.compare_digest(stored, _digest(secret))
    return same and key is not None


class KeyStore:
    """The keys in the server's database. Safe for use by many threads and processes.

    All methods raise `DatabaseUnavailableError` if the database cannot be used.
    """

    def __init__(self, database: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        create_tables(database, _metadata)

    def create(self, spec: KeySpec) -> tuple[ApiKey, str]:
        """Store a new key; returns it and its text `sk_…`, which is stored nowhere.

        Raises:
            InvalidRequestError: a value cannot be used.
        """
        now = self._clock()
        _check(spec)
        if spec.expires_at is not None and spec.expires_at <= now:
            raise InvalidRequestError("the key would have expired already")
        secret = secrets.token_hex(32)
        values = asdict(spec)
        values |= {name: tuple(dict.fromkeys(values[name])) for name in ("scopes", "functions")}
        key = ApiKey(**values, id=secrets.token_hex(8), digest=_digest(secret), created_at=now)
        row = {**key.to_dict(), "digest": key.digest}
        row |= {"scopes": list(key.scopes), "functions": list(key.functions)}
        with using(self._database), self._database.begin() as connection:
            connection.execute(_keys.insert().values(row))
        return key, f"{PREFIX}{key.id}_{secret}"

    def list(self, *, revoked: bool = True) -> list[ApiKey]:
        """All keys, or only those not revoked; the oldest first."""
        query = _keys.select().order_by(_keys.c.created_at, _keys.c.id)
        if not revoked:
            query = query.where(_keys.c.revoked_at.is_(None))
        with using(self._database), reading(self._database) as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str) -> bool:
        """Revoke a key for good. Returns whether a key with that id existed and was not revoked."""
        change = (
            _keys.update()
            .where(_keys.c.id == key_id, _keys.c.revoked_at.is_(None))
            .values(revoked_at=self._clock())
        )
        with using(self._database), self._database.begin() as connection:
            return connection.execute(change).rowcount > 0

    def record_used(self, used: Mapping[str, float]) -> None:
        """Store when keys were used last, by their ids."""
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


def _check(spec: KeySpec) -> None:
    """Raises InvalidRequestError if it does not fit into the table, or would allow nothing."""
    if not (0 < len(spec.name) <= MAX_NAME_LENGTH and spec.name.isprintable()):
        raise InvalidRequestError(f"a key's name is one line of 1 to {MAX_NAME_LENGTH} characters")
    if not spec.scopes or not spec.functions:
        raise InvalidRequestError("a key needs a scope and a pattern of functions")
    if len(spec.functions) > MAX_PATTERNS:
        raise InvalidRequestError(f"a key can have at most {MAX_PATTERNS} patterns of functions")
    for pattern in spec.functions:
        if not _PATTERN.fullmatch(pattern):
            raise InvalidRequestError(
                f"{pattern!r} is no pattern of functions",
                hint="write a name, in which * stands for any part and ? for one character",
            )
    limits = (spec.rate, spec.concurrency, spec.body)
    if any(limit is not None and limit < 1 for limit in limits):
        raise InvalidRequestError("a key's limits must be above zero")
