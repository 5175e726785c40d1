"""The latencies as a picture. Needs matplotlib, the extra `bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.stats import median, quantile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.series import Results, Series

_COLOURS: Final = {
    "bare": "#8c8c8c", "bare host": "#8c8c8c", "attach echo": "#8c8c8c", "docker run": "#8c8c8c",
    "cli cold": "#b3cde3", "cli warm": "#b3cde3",
}  # fmt: skip
_OURS: Final = "#2b6cb0"


def draw(results: Results, path: Path) -> None:
    """Write a PNG: for each function, the median and the quartiles of each way."""
    latencies = [item for item in results.series if item.suite == "latency"]
    subjects = list(dict.fromkeys(item.subject for item in latencies))
    if not subjects:
        return
    rows = (len(subjects) + 1) // 2
    figure, places = plt.subplots(
        rows, 2, figsize=(11, 0.6 + 2.6 * rows), squeeze=False, layout="constrained"
    )
    for axes in places.flat:
        axes.set_visible(False)
    for subject, axes in zip(subjects, places.flat, strict=False):
        axes.set_visible(True)
        _bars(axes, subject, [item for item in latencies if item.subject == subject])
    figure.suptitle("One invocation: median in ms, and the middle half of the samples")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _bars(axes: Axes, subject: str, series: Sequence[Series]) -> None:
    series = sorted(series, key=lambda item: -median(item.samples))
    medians = [median(item.samples) for item in series]
    low = [
        middle - quantile(item.samples, 0.25) for middle, item in zip(medians, series, strict=True)
    ]
    high = [
        quantile(item.samples, 0.75) - middle for middle, item in zip(medians, series, strict=True)
    ]
    axes.barh(
        [item.way for item in series],
        medians,
        xerr=(low, high),
        color=[_COLOURS.get(item.way, _OURS) for item in series],
        error_kw={"elinewidth": 1, "ecolor": "#333333"},
    )
    for place, middle in enumerate(medians):
        axes.text(middle * 1.15, place + 0.12, f"{middle:.1f}", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(left=0.1)
    axes.set_title(subject, fontsize=9)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
