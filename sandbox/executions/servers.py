"""Which servers that share a database are alive.

On the same store: by the lock that each holds there, which the kernel drops when its process ends.
Elsewhere: by a number that each counts up in the database; one that stands still for a minute, by
the clock of whoever looks, has ended. No clocks of two machines are compared.
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
    """This process among those that share the database; on record from the beginning.

    Raises:
        DatabaseUnavailableError: the database cannot be used; so do `beat` and `dead`.
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
        """Tell the others that this one lives. Every `BEAT_SECONDS` is often enough."""
        own = SERVERS.c.owner == self.id
        with using(self._database), self._database.begin() as connection:
            connection.execute(sa.update(SERVERS).where(own).values(beat=SERVERS.c.beat + 1))

    def dead(self, owners: Collection[str]) -> set[str]:
        """Which of these have ended. One of another machine only after a minute of looking."""
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
        """All servers on record but this one."""
        with using(self._database), reading(self._database) as connection:
            return set(connection.scalars(sa.select(SERVERS.c.owner))) - {self.id}

    def forget(self, owners: Collection[str]) -> None:
        """Take servers that have ended, and whose executions are seen to, off the record."""
        with using(self._database), self._database.begin() as connection:
            connection.execute(sa.delete(SERVERS).where(SERVERS.c.owner.in_(owners)))

    def close(self) -> None:
        """Give up the lock. What is left on record of this one is for the others to see to."""
        self._owner.close()
