"""What one caller may take, and that another does not pay for it."""

from __future__ import annotations

import contextlib
import threading

import pytest

from sandbox.config.server_settings import CallerLimits
from sandbox.errors import OverloadedError
from sandbox.server.auth.authentication import ANONYMOUS
from sandbox.server.auth.callers import Caller
from sandbox.server.auth.rate_limits import Limiter

# One that nobody reaches within a test, and one that a loop is over at once.
MANY, FEW = 1_000_000, 20


def caller(name: str, **limits: int) -> Caller:
    most = CallerLimits(rate=MANY).model_copy(update=limits)
    return Caller(id=name, scopes=frozenset({"invoke"}), limits=most)


def admitted(limiter: Limiter, who: Caller, times: int) -> int:
    """How many of so many requests, one after another, are let in."""
    count = 0
    for _ in range(times):
        with contextlib.suppress(OverloadedError), limiter.admit(who):
            count += 1
    return count


def until_refused(limiter: Limiter, who: Caller) -> None:
    while True:
        with limiter.admit(who):
            pass


@pytest.fixture
def limiter() -> Limiter:
    return Limiter(CallerLimits())


def test_no_more_than_its_concurrency_is_under_way(limiter: Limiter) -> None:
    one = caller("one", concurrency=2)
    with limiter.admit(one), limiter.admit(one):
        with pytest.raises(OverloadedError) as refused, limiter.admit(one):
            pass
        assert refused.value.http_status == 429
        assert refused.value.retry_after > 0
        assert refused.value.details["setting"] == "server.limits.concurrency"
        assert refused.value.details["limit"] == 2
        assert admitted(limiter, caller("another", concurrency=2), 1) == 1
    assert limiter.running(one) == 0
    assert admitted(limiter, one, 1) == 1


def test_a_request_that_fails_gives_its_place_back(limiter: Limiter) -> None:
    one = caller("one", concurrency=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.admit(one):
            raise ZeroDivisionError
    assert limiter.running(one) == 0


def test_a_rate_is_held_and_others_have_their_own(limiter: Limiter) -> None:
    one = caller("one", rate=FEW)
    # The window slides while the loop runs: a second may begin within it, not ten.
    assert FEW <= admitted(limiter, one, 10 * FEW) < 10 * FEW
    with pytest.raises(OverloadedError) as refused:
        until_refused(limiter, one)
    assert 0 < refused.value.retry_after <= 2
    assert refused.value.details["setting"] == "server.limits.rate"
    assert admitted(limiter, caller("another", rate=FEW), FEW) == FEW


def test_one_that_is_refused_for_its_rate_holds_no_place(limiter: Limiter) -> None:
    one = caller("one", rate=1, concurrency=1)
    assert admitted(limiter, one, 50) < 50
    assert limiter.running(one) == 0


def test_after_its_window_a_caller_is_let_in_again(limiter: Limiter) -> None:
    one = caller("one", rate=FEW)
    admitted(limiter, one, 10 * FEW)
    waited = threading.Event()
    for _ in range(100):
        if admitted(limiter, one, 1):
            return
        waited.wait(0.1)
    pytest.fail("never let in again")


def test_whoever_nobody_asked_who_he_is_has_no_limit_but_of_a_body(limiter: Limiter) -> None:
    limiter = Limiter(CallerLimits(rate=1, concurrency=1, body="1000b"))
    assert admitted(limiter, ANONYMOUS, 50) == 50
    with limiter.admit(ANONYMOUS), limiter.admit(ANONYMOUS):
        pass
    assert limiter.body(ANONYMOUS) == 1000


def test_a_body_has_the_caller_s_own_limit_below_the_server_s() -> None:
    limiter = Limiter(CallerLimits(body="1000b"))
    assert limiter.body(caller("one", body=10)) == 10
    assert limiter.body(caller("one", body=5000)) == 1000


def test_many_threads_never_go_over_a_concurrency(limiter: Limiter) -> None:
    one, most = caller("one", concurrency=3), []

    def ask() -> None:
        for _ in range(200):
            with contextlib.suppress(OverloadedError), limiter.admit(one):
                most.append(limiter.running(one))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= max(most) <= 3
    assert limiter.running(one) == 0
