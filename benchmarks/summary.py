"""Results in short, for a file that is small enough to be committed; pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.stats import summarise

if TYPE_CHECKING:
    from benchmarks.series import Results


def summaries(results: Results) -> list[dict[str, Any]]:
    """Each series with its summary in place of its samples."""
    return [
        {
            "suite": item.suite,
            "subject": item.subject,
            "way": item.way,
            "unit": item.unit,
            "note": item.note,
            **{name: round(value, 4) for name, value in asdict(summarise(item.samples)).items()},
        }
        for item in results.series
    ]
