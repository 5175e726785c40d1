"""API keys in the same database, on either engine; who is let in is tested with the server."""

from __future__ import annotations

from sandbox.executions.database import open_database
from sandbox.server.auth.api_keys import KeySpec, KeyStore, matches, parse_key


def test_keys_are_kept_listed_noted_and_revoked(database: str) -> None:
    now = [1_800_000_000.25]
    db = open_database(database)
    store = KeyStore(db, clock=lambda: now[0])
    spec = KeySpec(
        name="mäil", scopes=("invoke", "read"), functions=("a-*", "b"), rate=5, body=2**40,
        expires_at=now[0] + 10,
    )  # fmt: skip
    key, text = store.create(spec)
    other, _ = store.create(KeySpec(name="other"))
    db.dispose()

    db = open_database(database)  # as another process does, which finds the table made
    store = KeyStore(db, clock=lambda: now[0] + 5)
    # Made in the same moment: then by their ids.
    assert [item.id for item in store.list()] == sorted((key.id, other.id))
    (kept,) = [item for item in store.list() if item.id == key.id]
    assert kept == key
    parsed = parse_key(text)
    assert parsed is not None
    assert matches(kept, parsed[1])
    store.record_used({key.id: now[0] + 1, other.id: now[0] + 2, "0" * 16: now[0]})
    assert {item.last_used_at for item in store.list()} == {now[0] + 1, now[0] + 2}
    assert store.revoke(key.id)
    assert not store.revoke(key.id)
    assert [item.id for item in store.list(revoked=False)] == [other.id]
    db.dispose()
