"""Idempotency keys, as several servers on one database see them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from starlette.exceptions import HTTPException

from sandbox import Settings
from sandbox.call import Call
from sandbox.executions.database import create_tables, open_database
from sandbox.executions.servers import ServerHeartbeat
from sandbox.executions.tables import METADATA
from sandbox.server.dispatch.idempotency import IdempotencyStore
from sandbox.server.dispatch.threads import Threads

if TYPE_CHECKING:
    from pathlib import Path


def test_a_claim_ends_with_its_server(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path)
    database = open_database(f"sqlite:///{tmp_path / 'executions.db'}")
    create_tables(database, METADATA)
    killed, next_one = ServerHeartbeat(database, tmp_path), ServerHeartbeat(database, tmp_path)
    call = Call(function="pay", input={"amount": 1}, trigger="http", caller="key_1")
    threads = Threads("test", 2)

    held = contextlib.AsyncExitStack()

    async def claim(server: ServerHeartbeat) -> None:
        """Claim the key, and hold it without an answer."""
        store = IdempotencyStore(database, settings, owner=server.id)
        await held.enter_async_context(store.once("one", call, wait=True, threads=threads))

    async def scenario() -> None:
        await claim(killed)
        with pytest.raises(HTTPException, match="409"):  # the control: it lives
            await claim(next_one)
        killed.close()  # releases its lock in the store, as the kernel does for a killed process
        next_one.forget(next_one.dead(next_one.others()))
        await claim(next_one)
        with pytest.raises(HTTPException, match="409"):
            await claim(next_one)
        await held.aclose()

    try:
        asyncio.run(scenario())
    finally:
        next_one.close()
        threads.close()
        database.dispose()
