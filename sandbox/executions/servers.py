"""Which of the servers that share a database are alive.

A server on the same store holds a lock there, which the kernel releases when its process ends. A
server elsewhere increments a number in the database: if that stands still for a minute, the server
has ended. The minute is measured by the observer, so clocks of two machines are never compared.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from sandbox.executions.database import reading, using
from sandbox.executions.tables import SERVERS
from sandbox.store.owners import Owner, is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

BEAT_SECONDS: Final = 5.0
_SILENT_SECONDS: Final = 60.0


class ServerHeartbeat:
    """This process, on record among the servers that share the database.

    Raises:
        DatabaseUnavailableError: also from its methods, if the database cannot be used.
    """

    def __init__(
        self, database: sa.Engine, store: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        # The beats of others, and when each was first seen.
        self._seen: dict[str, tuple[int, float]] = {}
        self._owner = Owner(store)
        self.id = self._owner.id
        try:
            with using(database), database.begin() as connection:
                values = {"owner": self.id, "store": self._owner.store_id, "beat": 0}
                connection.execute(sa.insert(SERVERS).values(values))
        except BaseException:
            self._owner.close()
            raise

    def beat(self) -> None:
        """Tell the others that this server lives. To be called every `BEAT_SECONDS`."""
        own = SERVERS.c.owner == self.id
        with using(self._database), self._database.begin() as connection:
            connection.execute(sa.update(SERVERS).where(own).values(beat=SERVERS.c.beat + 1))

    def dead(self, owners: Collection[str]) -> set[str]:
        """Which of these have ended. For servers elsewhere, that takes a minute of calls."""
        with using(self._database), reading(self._database) as connection:
            rows = connection.execute(sa.select(SERVERS).where(SERVERS.c.owner.in_(owners))).all()
        known = {row.owner: row for row in rows}
        gone = set(owners) - known.keys() - {self.id}
        now = self._clock()
        self._seen = {owner: seen for owner, seen in self._seen.items() if owner in known}
        for owner, row in known.items():
            if owner == self.id:
                continue
            if row.store == self._owner.store_id:
                if not is_alive(self._store, owner):
                    gone.add(owner)
                continue
            beat, since = self._seen.get(owner, (None, now))
            if beat != row.beat:
                since = now
            self._seen[owner] = (row.beat, since)
            if now - since > _SILENT_SECONDS:
                gone.add(owner)
        return gone

    def others(self) -> set[str]:
        """All other servers on record."""
        with using(self._database), reading(self._database) as connection:
            return set(connection.scalars(sa.select(SERVERS.c.owner))) - {self.id}

    def forget(self, owners: Collection[str]) -> None:
        """Delete servers that have ended, once their executions are recovered."""
        with using(self._database), self._database.begin() as connection:
            connection.execute(sa.delete(SERVERS).where(SERVERS.c.owner.in_(owners)))

    def close(self) -> None:
        """Release the lock. The other servers recover what this one leaves on record."""
        self._owner.close()
