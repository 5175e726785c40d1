"""The timer calls at the time it is given, once for each key, and not after its end."""

from __future__ import annotations

import contextlib
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from sandbox.server.events.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 10


@pytest.fixture
def timer() -> Iterator[Timer]:
    with contextlib.closing(Timer("test", threads=2)) as timer:
        timer.start()
        yield timer


def test_calls_come_in_the_order_of_their_times(timer: Timer) -> None:
    called: SimpleQueue[str] = SimpleQueue()
    now = time.time()
    timer.call_at(now + 0.10, lambda: called.put("later"), key="a")
    timer.call_at(now + 0.05, lambda: called.put("sooner"), key="b")
    timer.call_at(now - 60, lambda: called.put("passed"), key="c")
    assert [called.get(timeout=PATIENCE) for _ in range(3)] == ["passed", "sooner", "later"]
    assert time.time() >= now + 0.10


def test_a_later_call_replaces_the_one_of_the_same_key(timer: Timer) -> None:
    called: SimpleQueue[str] = SimpleQueue()
    now = time.time()
    timer.call_at(now + 0.02, lambda: called.put("replaced"), key="a")
    timer.call_at(now + 0.05, lambda: called.put("kept"), key="a")
    timer.call_at(now + 0.10, lambda: called.put("last"), key="b")
    assert [called.get(timeout=PATIENCE) for _ in range(2)] == ["kept", "last"]


def test_a_call_may_ask_for_the_next_one(timer: Timer) -> None:
    counted = threading.Semaphore(0)

    def again() -> None:
        counted.release()
        timer.call_at(time.time(), again, key="a")

    timer.call_at(time.time(), again, key="a")
    assert all(counted.acquire(timeout=PATIENCE) for _ in range(5))


def test_the_end_waits_for_calls_and_begins_no_other(timer: Timer) -> None:
    running, release, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        running.set()
        release.wait(PATIENCE)
        ended.set()

    timer.call_at(0.0, call, key="a")
    assert running.wait(PATIENCE)
    timer.call_at(time.time() + 3600, lambda: pytest.fail("it was not due"), key="b")
    closing = threading.Thread(target=timer.close)
    closing.start()
    assert not ended.is_set()
    release.set()
    closing.join(PATIENCE)
    assert ended.is_set()


def test_one_that_was_never_started_ends_too() -> None:
    timer = Timer("test", threads=1)
    timer.call_at(0.0, lambda: pytest.fail("it was never started"), key="a")
    timer.close()
