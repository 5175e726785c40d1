"""Results as a table for people, 80 columns wide; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.stats import summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.marks import Mark
    from benchmarks.series import Results, Series

WIDTH: Final = 80
_HEAD: Final = f"{'':16}{'n':>5}{'min':>8}{'p50':>8}{'95% interval':>18}{'p95':>8}{'p99':>8}"


def render(results: Results, marks: Sequence[Mark], machine: Mapping[str, str]) -> str:
    """All of it, as text that ends with a line's end."""
    lines = [f"{name:12} {text}"[:WIDTH] for name, text in machine.items()]
    for suite, series in results.suites():
        lines += ["", *_suite(suite, series)]
    lines += ["", *render_marks(marks)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def render_marks(marks: Sequence[Mark]) -> Iterator[str]:
    """The marks, a line for each."""
    yield f"{'marks':54} {'bound':>8} {'value':>9}"
    words = {True: "", False: " missed", None: ""}
    for mark in marks:
        bound = f"{mark.comparison} {mark.bound:g}"
        value = "-" if mark.value is None else f"{mark.value:.2f}"
        yield f"{mark.name:54} {bound:>8} {value:>9}{words[mark.reached]}"


def _suite(suite: str, series: Sequence[Series]) -> Iterator[str]:
    subject = None
    for item in series:
        if item.subject != subject:
            if subject is not None:
                yield ""
            subject = item.subject
            yield f"{suite}: {subject}, {item.unit}"
            yield " " * 2 + _HEAD[2:]
        yield _row(item)
        if item.note:
            yield f"    ({item.note})"


def _row(series: Series) -> str:
    found = summarise(series.samples)
    name = f"{series.way:16}"
    if found.count == 1:
        return f"{name}{1:5}{'':8}{number(found.p50):>8}"
    spread = f"{number(found.low)} … {number(found.high)}"
    tail = found.p99 if found.count >= 100 else None  # of fewer, it is only the largest
    return (
        f"{name}{found.count:5}{number(found.least):>8}{number(found.p50):>8}{spread:>18}"
        f"{number(found.p95):>8}{'-' if tail is None else number(tail):>8}"
    )


def number(value: float) -> str:
    """Three digits that count, as short as they can be."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
