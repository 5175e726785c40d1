"""`ExecutionQueue`: asynchronous executions, on record before the caller gets their id.

Every change names the state that it starts from, so that of two servers that want to change an
execution, only one can. A server claims an execution, and may write to it only while no other
server has claimed it since. So each execution ends once on record, even if servers are killed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from sandbox.errors import Code, InvalidRequestError, OverloadedError
from sandbox.executions.database import reading, using
from sandbox.executions.model import ENDED, Bookkeeping
from sandbox.executions.retries import Again, Attempt, Over, after_loss
from sandbox.executions.rows import LISTED, to_document, to_execution, to_row
from sandbox.executions.tables import EXECUTIONS, INPUTS, WAITING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sandbox.call import Call
    from sandbox.executions.model import Execution

_c = EXECUTIONS.c
# How many seconds after a refusal a full queue may have room again.
_RETRY_AFTER: Final = 5.0
LOST: Final = "the server that ran it ended before it did"


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """An execution that this server has claimed. `document` is the rest of its call, as JSON."""

    execution: Execution
    document: str
    claim: int
    retries: int
    waits: int

    @property
    def attempt(self) -> Attempt:
        return Attempt(attempts=self.execution.attempts, retries=self.retries, waits=self.waits)


class ExecutionQueue:
    """The queue, for the server `owner`. `most` and `most_bytes` limit what may wait.

    All methods raise DatabaseUnavailableError if the database cannot be used.
    """

    def __init__(
        self,
        database: sa.Engine,
        *,
        owner: str,
        most: int,
        most_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._owner = owner
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock

    def put(self, execution: Execution, call: Call, *, retries: int) -> None:
        """Record a `queued` execution durably.

        Raises:
            OverloadedError: the queue is full.
            InvalidRequestError: there is an execution of that id.
        """
        row = to_row(execution, Bookkeeping(asynchronous=True, retries=retries))
        row["due_at"] = execution.created_at  # its place in the queue
        document = to_document(call)
        with using(self._database):
            try:
                with self._database.begin() as connection:
                    count, size = _waiting(connection)
                    if count >= self._most or size + execution.input_bytes > self._most_bytes:
                        raise OverloadedError(
                            f"{count} executions wait already", retry_after=_RETRY_AFTER
                        )
                    connection.execute(sa.insert(EXECUTIONS).values(row))
                    connection.execute(sa.insert(INPUTS).values(id=execution.id, document=document))
            except IntegrityError:
                raise InvalidRequestError("there is an execution of that id already") from None

    def waiting(self) -> int:
        """How many executions wait for their first or their next attempt."""
        with using(self._database), reading(self._database) as connection:
            return _waiting(connection)[0]

    def due_at(self) -> float | None:
        """When the next execution is due, in seconds since the epoch."""
        query = sa.select(sa.func.min(_c.due_at)).where(WAITING)
        with using(self._database), reading(self._database) as connection:
            due_at: float | None = connection.scalar(query)
        return due_at

    def claim(self) -> Claimed | None:
        """Claim the execution that has been due for longest; None if none is due."""
        now = self._clock()
        # With PostgreSQL, servers skip each other's rows; SQLite has one writer at a time.
        first = (
            sa.select(_c.id)
            .where(WAITING, _c.due_at <= now)
            .order_by(_c.due_at, _c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        taken = (
            sa.update(EXECUTIONS)
            .where(_c.id == first.scalar_subquery(), WAITING)
            .values(
                status="running",
                owner=self._owner,
                claim=_c.claim + 1,
                attempts=_c.attempts + 1,
                started_at=now,
                code=None,
                message=None,
                cancel_asked=False,
            )
            .returning(*LISTED)
        )
        with using(self._database), self._database.begin() as connection:
            row = connection.execute(taken).mappings().first()
            if row is None:
                return None
            document = connection.scalar(
                sa.select(INPUTS.c.document).where(INPUTS.c.id == row["id"])
            )
        return Claimed(
            execution=to_execution(row),
            document=document or "",
            claim=row["claim"],
            retries=row["retries"],
            waits=row["waits"],
        )

    def finish(self, claimed: Claimed, ended: Execution) -> bool:
        """Record how it ended, and forget its input unless it is `dead`.

        Returns False if another server has recovered it meanwhile: then nothing is recorded.
        """
        return self._change(self._is_ours(claimed), ended.id, to_row(ended))

    def again(self, claimed: Claimed, again: Again, *, code: str, message: str) -> Execution | None:
        """Make it wait for its next attempt, or end it if somebody has asked for that.

        Returns the execution as it is then; None if another server has recovered it meanwhile.
        """
        waiting = replace(
            claimed.execution,
            status=again.status,
            attempts=again.attempts,
            code=code,
            message=message,
            due_at=self._clock() + again.delay,
        )
        return self._unless_unwanted(self._is_ours(claimed), waiting, waits=again.waits)

    def give_up(self, claimed: Claimed) -> Execution | None:
        """Do for an execution that this server stops, as it ends, what `recover` would do."""
        lost = self._lost(claimed.execution, retries=claimed.retries)
        return self._unless_unwanted(self._is_ours(claimed), lost)

    def asked_to_cancel(self) -> list[str]:
        """The ids of executions that run here and are to be cancelled."""
        query = sa.select(_c.id).where(
            _c.status == "running", _c.owner == self._owner, _c.cancel_asked
        )
        with using(self._database), reading(self._database) as connection:
            return list(connection.scalars(query))

    def running_owners(self) -> set[str]:
        """The servers that run executions, according to the record."""
        query = sa.select(_c.owner).distinct().where(_c.status == "running")
        with using(self._database), reading(self._database) as connection:
            return {owner for owner in connection.scalars(query) if owner is not None}

    def recover(self, dead: Collection[str]) -> int:
        """Recover executions of servers that have ended; how many there were.

        Those with attempts left run again. The others end, since a function may not be safe to run
        twice.
        """
        query = sa.select(*LISTED).where(_c.status == "running", _c.owner.in_(dead))
        with using(self._database), reading(self._database) as connection:
            rows = connection.execute(query).mappings().all()
        return sum(self._recover(row) for row in rows)

    def _recover(self, row: sa.RowMapping) -> bool:
        as_it_was = sa.and_(
            _c.id == row["id"],
            _c.status == "running",
            _c.owner == row["owner"],
            _c.claim == row["claim"],
        )
        lost = self._lost(to_execution(row), retries=row["retries"])
        return self._unless_unwanted(as_it_was, lost) is not None

    def _lost(self, execution: Execution, *, retries: int) -> Execution:
        """The execution after its server was lost. A synchronous one has no retries, and ends."""
        attempt = Attempt(attempts=execution.attempts, retries=retries)
        follows = after_loss(attempt, chance=random.random())  # noqa: S311 - spreads load
        if isinstance(follows, Over):
            return self._cancelled(execution, LOST)
        return replace(
            execution,
            status=follows.status,
            code=Code.CANCELLED.value,
            message=LOST,
            due_at=self._clock() + follows.delay,
        )

    def _cancelled(self, execution: Execution, message: str) -> Execution:
        return replace(
            execution,
            status="cancelled",
            code=Code.CANCELLED.value,
            message=message,
            ended_at=self._clock(),
            due_at=None,
        )

    def _is_ours(self, claimed: Claimed) -> sa.ColumnElement[bool]:
        return sa.and_(
            _c.id == claimed.execution.id,
            _c.status == "running",
            _c.owner == self._owner,
            _c.claim == claimed.claim,
        )

    def _unless_unwanted(
        self, where: sa.ColumnElement[bool], execution: Execution, *, waits: int = 0
    ) -> Execution | None:
        """Record its new state; or `cancelled`, if somebody has asked for that meanwhile."""
        values = {**_state(execution), "waits": waits, "owner": None}
        if self._change(sa.and_(where, sa.not_(_c.cancel_asked)), execution.id, values):
            return execution
        cancelled = self._cancelled(execution, "cancelled while it ran")
        return cancelled if self._change(where, execution.id, _state(cancelled)) else None

    def _change(
        self,
        where: sa.ColumnElement[bool],
        id: str,  # noqa: A002 - the column's name
        values: dict[str, Any],
    ) -> bool:
        """Set columns of the execution at `where`. If that ends it, delete its input."""
        with using(self._database), self._database.begin() as connection:
            changed = connection.execute(sa.update(EXECUTIONS).where(where).values(values))
            if changed.rowcount != 1:
                return False
            # A dead one can be retried.
            if values["status"] in ENDED - {"dead"}:
                connection.execute(sa.delete(INPUTS).where(INPUTS.c.id == id))
        return True


def _waiting(connection: sa.Connection) -> tuple[int, int]:
    """How many executions wait, and the bytes of their inputs."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_c.input_bytes), 0)).where(
        WAITING
    )
    count, size = connection.execute(query).one()
    return count, int(size)


def _state(execution: Execution) -> dict[str, Any]:
    row = to_row(execution)
    names = ("status", "attempts", "code", "message", "due_at", "ended_at")
    return {name: row[name] for name in names}
