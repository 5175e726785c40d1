"""What follows when an asynchronous execution did not succeed. Pure.

- The platform could not run it (engine away, no place): it waits and is tried again, for ever.
  That does not count as an attempt.
- The function failed: it gets another attempt while `retries` are left, each after a longer delay.
- It was cancelled, or would only fail again: it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.errors import Code

if TYPE_CHECKING:
    from sandbox.executions.model import Status

# Failures of the platform: they pass, or an operator repairs them.
PLATFORM: Final = frozenset(
    {
        Code.OVERLOADED,
        Code.ENGINE_UNAVAILABLE,
        Code.RUNTIME_NOT_AVAILABLE,
        Code.DATABASE_UNAVAILABLE,
    }
)
# Another attempt would fail in the same way.
HOPELESS: Final = frozenset(
    {
        Code.INVALID_REQUEST,
        Code.FUNCTION_NOT_FOUND,
        Code.INVALID_MANIFEST,
        Code.INVALID_SETTINGS,
        Code.POLICY_REFUSED,
    }
)
_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 300.0
_LONGEST_WAIT: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How far an execution has come. `attempts` counts the one that has just ended too.

    `retries` is how many attempts may follow the first. `waits` is how often in a row the platform
    could not run it before.
    """

    attempts: int
    retries: int
    waits: int = 0


@dataclass(frozen=True, kw_only=True)
class Again:
    """It runs again, `delay` seconds from now, with these counts of attempts and waits."""

    status: Status
    delay: float
    attempts: int
    waits: int


@dataclass(frozen=True, kw_only=True)
class Over:
    """It has ended."""

    status: Status


def after_failure(
    code: str, attempt: Attempt, *, platform: bool, retry_after: float = 0.0, chance: float
) -> Again | Over:
    """What follows a failure with that code.

    `platform` says that the code comes from the platform: a function may respond with any code.
    `retry_after`, in seconds, is the shortest delay. `chance`, from 0 to 1, spreads the delays.
    """
    if platform and code in PLATFORM:
        attempts, waits = attempt.attempts - 1, attempt.waits + 1
        delay = max(retry_after, backoff(waits, longest=_LONGEST_WAIT, chance=chance))
        return Again(
            status="retrying" if attempts else "queued",
            delay=delay,
            attempts=attempts,
            waits=waits,
        )
    hopeless = platform and code in HOPELESS
    if attempt.attempts <= attempt.retries and not hopeless:
        delay = backoff(attempt.attempts, longest=_LONGEST_DELAY, chance=chance)
        return Again(status="retrying", delay=delay, attempts=attempt.attempts, waits=0)
    return Over(status="dead" if attempt.retries else "failed")


def after_loss(attempt: Attempt, *, chance: float) -> Again | Over:
    """What follows if its server has ended: nobody knows how far the attempt came."""
    if attempt.attempts <= attempt.retries:
        delay = backoff(attempt.attempts, longest=_LONGEST_DELAY, chance=chance)
        return Again(status="retrying", delay=delay, attempts=attempt.attempts, waits=0)
    return Over(status="cancelled")


def not_begun(attempt: Attempt) -> Again:
    """What follows if the attempt was refused before it began."""
    attempts = attempt.attempts - 1
    return Again(
        status="retrying" if attempts else "queued",
        delay=_FIRST_DELAY,
        attempts=attempts,
        waits=attempt.waits,
    )


def backoff(number: int, *, longest: float, chance: float) -> float:
    """Seconds to wait after failure `number`, counted from 1.

    They double each time, up to `longest`; `chance` takes up to half of them away.
    """
    whole = min(longest, _FIRST_DELAY * 2.0 ** min(number - 1, 30))
    return whole * (0.5 + 0.5 * chance)
