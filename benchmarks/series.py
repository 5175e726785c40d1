"""What was measured: series of samples, and the results of a run that hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.stats import median

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Series:
    """Samples of one thing. `subject` is what was measured (a function, say), `way` how."""

    suite: str
    subject: str
    way: str
    unit: str
    samples: tuple[float, ...]
    # What a reader of the table has to know of it.
    note: str = ""


@dataclass
class Results:
    """All series of a run, in the order in which they came."""

    series: list[Series] = field(default_factory=list)

    def add(  # noqa: PLR0913
        self,
        suite: str,
        subject: str,
        way: str,
        unit: str,
        samples: Sequence[float],
        *,
        note: str = "",
    ) -> None:
        """Add a series; one without samples is left out."""
        if samples:
            self.series.append(Series(suite, subject, way, unit, tuple(samples), note))

    def find(self, suite: str, subject: str, way: str) -> Series | None:
        """The series of that name."""
        return next(
            (
                item
                for item in self.series
                if (item.suite, item.subject, item.way) == (suite, subject, way)
            ),
            None,
        )

    def median(self, suite: str, subject: str, way: str) -> float | None:
        """Its median, or None if it was not measured."""
        found = self.find(suite, subject, way)
        return None if found is None else median(found.samples)

    def suites(self) -> Iterator[tuple[str, list[Series]]]:
        """The series by suite, in order."""
        for name in dict.fromkeys(item.suite for item in self.series):
            yield name, [item for item in self.series if item.suite == name]

    def to_dict(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(item) for item in self.series]

    @classmethod
    def from_dict(cls, document: Sequence[dict[str, Any]]) -> Results:
        """What `to_dict` gave."""
        return cls([Series(**item | {"samples": tuple(item["samples"])}) for item in document])
