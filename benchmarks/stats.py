"""Statistics of samples; pure.

Medians and quantiles, since latencies are skewed; and how far they can be trusted, by the
bootstrap: the spread of the same quantile over many samples drawn from the sample itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES: Final = 1000


def quantile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie, between two of them by weight.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(samples: Sequence[float]) -> float:
    """The middle value. Raises ValueError if there are no samples."""
    return quantile(samples, 0.5)


def interval(
    samples: Sequence[float], share: float = 0.5, *, confidence: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """Where the quantile lies with that confidence, by the bootstrap; the same for the same seed.

    Raises:
        ValueError: there are no samples.
    """
    chance = random.Random(seed)
    found = sorted(
        quantile(chance.choices(samples, k=len(samples)), share) for _ in range(_RESAMPLES)
    )
    beyond = (1 - confidence) / 2
    return quantile(found, beyond), quantile(found, 1 - beyond)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a table shows of samples, in their unit. `low` to `high`: the median's interval."""

    count: int
    least: float
    p50: float
    p95: float
    p99: float
    low: float
    high: float


def summarise(samples: Sequence[float]) -> Summary:
    """The summary of at least one sample. Raises ValueError if there is none."""
    low, high = interval(samples)
    return Summary(
        count=len(samples),
        least=min(samples),
        p50=quantile(samples, 0.5),
        p95=quantile(samples, 0.95),
        p99=quantile(samples, 0.99),
        low=low,
        high=high,
    )
