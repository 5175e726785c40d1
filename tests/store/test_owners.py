"""The id of a store, which all processes that use it share."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sandbox.store.owners import Owner

if TYPE_CHECKING:
    from pathlib import Path


def test_all_that_start_at_once_share_one_id(tmp_path: Path) -> None:
    most = 8
    for turn in range(50):
        store = tmp_path / str(turn)
        barrier = threading.Barrier(most)

        def start(_: int, store: Path = store, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            with contextlib.closing(Owner(store)) as owner:
                return owner.store_id

        with ThreadPoolExecutor(most) as threads:
            ids = set(threads.map(start, range(most)))
        assert ids == {(store / "id").read_text()}
        assert all(ids)
        assert not list(store.glob("id.*"))
