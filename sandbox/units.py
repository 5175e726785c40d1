"""Durations and sizes as manifests and settings write them: `30s`, `5m`, `128mb`, `1gb`."""

from __future__ import annotations

import math
import re
from typing import Final

_NUMBER: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", re.ASCII)

_PART: Final = re.compile(r"([0-9]++(?:\.[0-9]++)?)(ms|h|m|s)", re.ASCII)
# Matched before `_PART` searches: a search in other text, such as a long number without a unit,
# takes time in proportion to the square of its length.
_PARTS: Final = re.compile(f"(?:{_PART.pattern}){{2,}}", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

MIB: Final = 1024 * 1024
_BYTES: Final = {
    # A bare number is in MiB, as in Alyx's manifests.
    "": MIB,
    "b": 1,
    "k": 1024,
    "kb": 1024,
    "kib": 1024,
    "m": MIB,
    "mb": MIB,
    "mib": MIB,
    "g": 1024 * MIB,
    "gb": 1024 * MIB,
    "gib": 1024 * MIB,
}


def parse_duration(value: object) -> float:
    """Seconds from `30`, `30s`, `5m`, `1h` or `500ms`.

    Raises:
        ValueError: not a duration, or not above zero.
    """
    seconds = _parse(value, _SECONDS, 'a duration such as 30, "30s", "5m" or "500ms"')
    # A week bounds what a clock, a poll and a cgroup accept without a special case.
    if not 0.001 <= seconds <= 7 * 86400:
        raise ValueError(f"{value!r} is out of range: give between 1ms and 7 days")
    return seconds


def parse_interval(text: str) -> float:
    """Seconds from a duration of several parts, such as `1h30m`, or of one: see `parse_duration`.

    Raises:
        ValueError: it is neither.
    """
    if not _PARTS.fullmatch(text):
        return parse_duration(text)
    # Not `math.fsum`, which raises an error where huge parts add up to infinity.
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def parse_size(value: object) -> int:
    """Bytes from `128` (MiB), `128mb`, `64kb`, `1gb`; units are powers of 1024.

    Raises:
        ValueError: not a size, or not above zero.
    """
    size = _parse(value, _BYTES, 'a size such as 128 (MiB), "128mb" or "1gb"')
    if not 1 <= size <= 2**50:
        raise ValueError(f"{value!r} is out of range: give between 1b and 1048576gb")
    return round(size)


def format_duration(seconds: float) -> str:
    """`0.25` → `250ms`, `30.0` → `30s`, `300.0` → `5m`, `86400.0` → `24h`."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, scale in (("h", 3600), ("m", 60)):
        if seconds >= scale and seconds % scale == 0:
            return f"{seconds / scale:g}{unit}"
    return f"{seconds:g}s"


def format_size(size: int) -> str:
    """`134217728` → `128mb`; the largest unit that stays readable."""
    for unit, scale in (("gb", 1024 * MIB), ("mb", MIB), ("kb", 1024)):
        if size >= scale:
            return f"{size / scale:.4g}{unit}"
    return f"{size}b"


def _parse(value: object, units: dict[str, float] | dict[str, int], expected: str) -> float:
    """The number in `value` times its unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is not {expected}")
        return float(value) * units[""]
    match = _NUMBER.fullmatch(value) if isinstance(value, str) and len(value) <= 32 else None
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{value!r} is not {expected}")
    return float(match[1]) * units[match[2].lower()]
