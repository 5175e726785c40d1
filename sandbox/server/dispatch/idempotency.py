"""`Idempotency-Key`: a request is carried out once, however often it is sent.

Answers are kept in the server's database, so that this holds across restarts and for all servers
that share it. Of a request, only digests are kept. A key that a server has claimed is free again
when that server ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from sandbox.errors import InvalidRequestError
from sandbox.executions.database import create_tables, using
from sandbox.executions.tables import SERVERS
from sandbox.models import dump_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox.call import Call
    from sandbox.config.settings import Settings
    from sandbox.server.dispatch.threads import Threads

KEY: Final = re.compile(r"[!-~]{1,255}")
REPLAYED: Final = "Idempotent-Replayed"
# The headers of an answer that are kept.
_KEPT: Final = ("content-type", "location")
# All answers are counted again when this fraction of the most bytes has been added.
_COUNTED_AT: Final = 16
# An execution without an answer after its longest time and this was lost.
_SPARE: Final = 60.0

_metadata = sa.MetaData()
_answers = sa.Table(
    "idempotent_answers",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("began_at", sa.Float(53), nullable=False, index=True),
    # None while the request is being carried out.
    sa.Column("status", sa.Integer),
    sa.Column("headers", sa.JSON),
    sa.Column("body", sa.LargeBinary),
)
# Which server carries out the request of a key that has no answer yet.
_claims = sa.Table(
    "idempotency_claims",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
)
# Claims of servers that have ended: the others take such a server off the record.
_lost = sa.select(_claims.c.key).where(_claims.c.owner.not_in(sa.select(SERVERS.c.owner)))


@dataclass
class Kept:
    """The answer to a key. If it is None, carry the request out and set it."""

    answer: Response | None = None


class IdempotencyStore:
    """Answers by caller, function and key, for `server.idempotency` seconds.

    The oldest are forgotten when all together have more than `server.idempotency_bytes`, and a
    little. `owner` is the id of this server's `ServerHeartbeat`.
    """

    def __init__(
        self,
        database: sa.Engine,
        settings: Settings,
        *,
        owner: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._owner = owner
        self._keep = settings.server.idempotency
        self._most_bytes = settings.server.idempotency_bytes
        # Bytes added since all were counted. The first answer counts those of earlier processes.
        self._uncounted = self._most_bytes
        self._lock = threading.Lock()
        self._longest = settings.ceilings.timeout + _SPARE
        self._clock = clock
        create_tables(database, _metadata)

    @contextlib.asynccontextmanager
    async def once(
        self, key: str, call: Call, *, wait: bool, threads: Threads
    ) -> AsyncIterator[Kept]:
        """Find the answer to a request, or keep the one that the body of this context sets.

        If the body raises, nothing is kept, and the request may be sent again.

        Raises:
            InvalidRequestError: the key is not valid.
            HTTPException: 409 while a request with that key is being carried out, 422 if the key
                was used for another request.
        """
        if not KEY.fullmatch(key):
            raise InvalidRequestError("an Idempotency-Key is 1 to 255 printable ASCII characters")
        name, request = _digest([call.caller, call.function, key]), _fingerprint(call, wait=wait)
        kept = Kept(await threads.run(self._claim, name, request))
        if kept.answer is not None:
            yield kept
            return
        try:
            yield kept
        except BaseException:
            await asyncio.shield(threads.run(self._release, name))
            raise
        if kept.answer is not None:
            await threads.run(self._keep_answer, name, kept.answer)

    def _claim(self, name: str, request: str) -> Response | None:
        now = self._clock()
        columns = _answers.c
        over = sa.or_(
            columns.began_at < now - self._keep,
            sa.and_(
                columns.status.is_(None),
                sa.or_(columns.began_at < now - self._longest, columns.key.in_(_lost)),
            ),
        )
        answer = sa.insert(_answers).values(key=name, request=request, began_at=now)
        claim = sa.insert(_claims).values(key=name, owner=self._owner)
        claimed = sa.select(columns.key).where(columns.status.is_(None))
        with using(self._database):
            with self._database.begin() as connection:
                connection.execute(sa.delete(_answers).where(over))
                connection.execute(sa.delete(_claims).where(_claims.c.key.not_in(claimed)))
            try:
                with self._database.begin() as connection:
                    connection.execute(answer)
                    connection.execute(claim)
                return None
            except IntegrityError:  # the key is known
                pass
            with self._database.begin() as connection:
                found = sa.select(_answers).where(columns.key == name)
                row = connection.execute(found).mappings().first()
        if row is None or (row["status"] is None and row["request"] == request):
            raise HTTPException(
                HTTPStatus.CONFLICT,
                "a request with that Idempotency-Key is being carried out",
                {"Retry-After": "1"},
            )
        if row["request"] != request:
            raise HTTPException(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "that Idempotency-Key was used for another request",
            )
        headers = dict(row["headers"]) | {REPLAYED: "true"}
        return Response(row["body"], row["status"], headers=headers)

    def _keep_answer(self, name: str, answer: Response) -> None:
        body = bytes(answer.body)
        values = {
            "status": answer.status_code,
            "headers": {kept: answer.headers[kept] for kept in _KEPT if kept in answer.headers},
            "body": body,
        }
        with using(self._database), self._database.begin() as connection:
            connection.execute(sa.update(_answers).where(_answers.c.key == name).values(**values))
            if self._must_count(len(body)):
                connection.execute(_beyond(self._most_bytes))

    def _must_count(self, size: int) -> bool:
        """Whether so much was added that all answers have to be counted."""
        with self._lock:
            self._uncounted += size
            if self._uncounted < self._most_bytes // _COUNTED_AT:
                return False
            self._uncounted = 0
            return True

    def _release(self, name: str) -> None:
        with using(self._database), self._database.begin() as connection:
            connection.execute(sa.delete(_answers).where(_answers.c.key == name))


def _beyond(most: int) -> sa.Delete:
    """Delete the oldest answers, so that the others have at most `most` bytes."""
    columns = _answers.c
    newer = sa.func.sum(sa.func.length(columns.body)).over(
        order_by=(columns.began_at.desc(), columns.key)
    )
    sizes = sa.select(columns.key, newer.label("size")).where(columns.status.is_not(None))
    counted = sizes.subquery()
    too_many = sa.select(counted.c.key).where(counted.c.size > most)
    return sa.delete(_answers).where(columns.key.in_(too_many))


def _fingerprint(call: Call, *, wait: bool) -> str:
    return _digest([dict(call.input), list(call.files), call.auth, call.timeout, wait])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(dump_json(parts).encode()).hexdigest()
