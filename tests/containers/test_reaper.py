"""What killed processes left behind is removed, and nothing else."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sandbox import EngineUnavailableError
from sandbox.containers import reaper as reaping
from sandbox.containers.reaper import Reaper, reap
from sandbox.store.owners import GATEWAYS, LABEL_OWNER, LABEL_STORE, OWNERS, Owner
from sandbox.testing import FakeEngine
from tests.fakes import spec
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_only_what_the_dead_left_in_this_store_is_removed(tmp_path: Path) -> None:
    engine = FakeEngine()
    with contextlib.closing(Owner(tmp_path)) as alive:
        labels = alive.labels("f")
        dead = labels | {LABEL_OWNER: "dead"}
        kept = [engine.create(spec(labels=each)) for each in (labels, dead | {LABEL_STORE: "x"})]
        for _ in range(2):
            engine.create(spec(labels=dead)).start()
        for owner in (alive.id, "dead"):
            (tmp_path / GATEWAYS / owner).mkdir(parents=True)
        (tmp_path / OWNERS / "dead").touch()
        assert reap(engine, tmp_path) == 2
        assert reap(engine, tmp_path) == 0
        assert {item.id for item in engine.containers({})} == {item.id for item in kept}
        assert [path.name for path in (tmp_path / GATEWAYS).iterdir()] == [alive.id]
        assert [path.name for path in (tmp_path / OWNERS).iterdir()] == [alive.id]
    for container in kept:
        container.remove()


def test_it_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(reaping, "REAP_SECONDS", 0.01)
    swept = threading.Semaphore(0)

    def sweep() -> None:
        swept.release()
        raise EngineUnavailableError("away")

    reaper = Reaper(sweep)
    reaper.start()
    for _ in range(3):
        assert swept.acquire(timeout=10)
    reaper.close()
    assert "away" in caplog.text


def test_it_begins_once_whoever_starts_it_at_the_same_time() -> None:
    for _ in range(50):
        sweeps: list[None] = []
        reaper = Reaper(lambda sweeps=sweeps: sweeps.append(None))  # type: ignore[misc]
        with ThreadPoolExecutor(8) as threads:
            for started in [threads.submit(reaper.start) for _ in range(8)]:
                started.result()
        wait_until(lambda sweeps=sweeps: sweeps)  # type: ignore[misc]
        reaper.close()
        assert len(sweeps) == 1


def test_one_that_never_began_can_be_closed() -> None:
    Reaper(lambda: None).close()
