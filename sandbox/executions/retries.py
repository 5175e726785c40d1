"""What follows when an execution that nobody waits for did not succeed. Pure.

- The platform could not run it (engine away, no place): it waits and is tried again, without end;
  that is no attempt of the function's.
- The function failed: another attempt if its manifest has `retries` left, later each time.
- A failure that another attempt would only repeat, or a cancellation: it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.errors import Code

if TYPE_CHECKING:
    from sandbox.executions.model import Status

# The platform's own: what is away comes back, or an operator sees to it.
PLATFORM: Final = frozenset(
    {
        Code.OVERLOADED,
        Code.ENGINE_UNAVAILABLE,
        Code.RUNTIME_NOT_AVAILABLE,
        Code.DATABASE_UNAVAILABLE,
    }
)
# The same again would fail again.
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
    """How far an execution has come: `attempts` with the one that has just ended.

    `retries` are those that may follow the first attempt; `waits`, how often in a row the
    platform could not run it before.
    """

    attempts: int
    retries: int
    waits: int = 0


@dataclass(frozen=True, kw_only=True)
class Again:
    """It runs again, `delay` seconds from now; `attempts` and `waits` are counted from then on."""

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
    """What follows on a failure with that code.

    `platform`: it is no response of the function's, so that the code means what we say it means.
    `retry_after`, in seconds, is the least to wait. `chance`, from 0 to 1, spreads the delays.
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
    """What follows when the server that ran it has ended: how far it came, nobody knows."""
    if attempt.attempts <= attempt.retries:
        delay = backoff(attempt.attempts, longest=_LONGEST_DELAY, chance=chance)
        return Again(status="retrying", delay=delay, attempts=attempt.attempts, waits=0)
    return Over(status="cancelled")


def not_begun(attempt: Attempt) -> Again:
    """What follows where the attempt was refused before anything of it ran."""
    attempts = attempt.attempts - 1
    return Again(
        status="retrying" if attempts else "queued",
        delay=_FIRST_DELAY,
        attempts=attempts,
        waits=attempt.waits,
    )


def backoff(number: int, *, longest: float, chance: float) -> float:
    """Seconds to wait before the attempt that follows on failure `number`, from 1.

    Twice as long each time, up to `longest`; of that between a half and all, by `chance`.
    """
    whole = min(longest, _FIRST_DELAY * 2.0 ** min(number - 1, 30))
    return whole * (0.5 + 0.5 * chance)
