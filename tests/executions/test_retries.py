from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import CODES
from sandbox.executions.retries import (
    HOPELESS,
    PLATFORM,
    Again,
    Attempt,
    Over,
    after_failure,
    after_loss,
    backoff,
)

chances = st.floats(0, 1)
retries = st.integers(0, 10)


@given(st.integers(1, 10_000), st.floats(1, 1e6), chances)
def test_a_delay_is_between_half_of_its_step_and_all_of_it(
    number: int, longest: float, chance: float
) -> None:
    delay = backoff(number, longest=longest, chance=chance)
    step = min(longest, 2.0 ** min(number - 1, 100))
    assert step / 2 <= delay <= step


@given(st.integers(1, 30), chances, chances)
def test_delays_never_get_shorter(number: int, chance: float, other: float) -> None:
    """Whatever the jitter: the least of a step is the most of the one before."""
    earlier = backoff(number, longest=300, chance=1.0)
    assert backoff(number + 1, longest=600, chance=0.0) >= min(earlier, 300)


@given(retries, chances)
def test_one_that_always_fails_has_one_attempt_more_than_retries(
    allowed: int, chance: float
) -> None:
    attempts = 1
    while True:
        follows = after_failure(
            "FUNCTION_ERROR",
            Attempt(attempts=attempts, retries=allowed),
            platform=False,
            chance=chance,
        )
        if isinstance(follows, Over):
            break
        assert follows.status == "retrying"
        assert 0 < follows.delay <= 300
        attempts = follows.attempts + 1
    assert attempts == allowed + 1
    assert follows.status == ("dead" if allowed else "failed")


@given(st.sampled_from(sorted(PLATFORM)), retries, st.integers(0, 1000), chances)
def test_the_platforms_failures_are_waited_out_and_never_counted(
    code: str, allowed: int, waits: int, chance: float
) -> None:
    attempt = Attempt(attempts=1, retries=allowed, waits=waits)
    follows = after_failure(code, attempt, platform=True, chance=chance)
    assert isinstance(follows, Again)
    assert (follows.status, follows.attempts, follows.waits) == ("queued", 0, waits + 1)
    assert 0 < follows.delay <= 60


def test_the_time_that_the_platform_asks_for_is_waited() -> None:
    attempt = Attempt(attempts=2, retries=3)
    follows = after_failure("OVERLOADED", attempt, platform=True, retry_after=90.0, chance=0.5)
    assert follows == Again(status="retrying", delay=90.0, attempts=1, waits=1)


@given(st.sampled_from(sorted(HOPELESS)), st.integers(1, 10), chances)
def test_what_another_attempt_would_only_repeat_is_over_at_once(
    code: str, allowed: int, chance: float
) -> None:
    attempt = Attempt(attempts=1, retries=allowed)
    assert after_failure(code, attempt, platform=True, chance=chance) == Over(status="dead")


@given(st.sampled_from(sorted(CODES)), chances)
def test_a_functions_own_code_says_nothing_of_the_platform(code: str, chance: float) -> None:
    """A function may answer with OVERLOADED or INVALID_REQUEST: that is a failure like others."""
    follows = after_failure(code, Attempt(attempts=1, retries=1), platform=False, chance=chance)
    assert isinstance(follows, Again)
    assert follows.attempts == 1


@given(st.integers(1, 11), retries, chances)
def test_a_lost_one_runs_again_only_if_its_manifest_bears_it(
    attempts: int, allowed: int, chance: float
) -> None:
    follows = after_loss(Attempt(attempts=attempts, retries=allowed), chance=chance)
    if attempts <= allowed:
        assert isinstance(follows, Again)
        assert follows.attempts == attempts
    else:
        assert follows == Over(status="cancelled")
