"""`Problem`: something wrong in a file that people wrote, where it is, and how to mend it."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Severity = Literal["error", "warning"]

# A hostile file can be wrong in ten thousand places; people read the first few.
MOST_PROBLEMS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem. Lines and columns count from 1; `function` is the function that it concerns.

    As text it reads like a compiler's message:
    `functions/hello/function.yaml:7:1: error: unknown field 'memroy' (did you mean 'memory'?)`.
    """

    message: str
    file: str
    line: int | None = None
    column: int | None = None
    hint: str = ""
    severity: Severity = "error"
    function: str | None = None

    @property
    def where(self) -> str:
        """`file`, `file:line` or `file:line:column`."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)

    def to_dict(self) -> dict[str, Any]:
        """The problem as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return printable(f"{self.where}: {self.severity}: {self.message}{hint}")


def printable(text: str) -> str:
    """`text` with everything escaped that could move a terminal's cursor or reorder a line.

    File names and keys are written by people who are not trusted.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object, *, most: int = 60) -> str:
    """`value` in quotes, cut to a length that a message can hold."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'memory'?`, or an empty text where nothing is near."""
    near = near_names(word, known)
    return f"did you mean {near[0]!r}?" if near else ""


def near_names(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of `known` that are spelled like `word`, nearest first."""
    return difflib.get_close_matches(word, list(known), n=3, cutoff=0.6) if len(word) < 128 else []


def has_errors(problems: Iterable[Problem]) -> bool:
    """Whether any of `problems` is more than a warning."""
    return any(problem.severity == "error" for problem in problems)


def capped(problems: Sequence[Problem]) -> list[Problem]:
    """The first `MOST_PROBLEMS`, and one more that says how many were left out."""
    kept = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        last = problems[MOST_PROBLEMS]
        count = len(problems) - MOST_PROBLEMS
        message = f"{count} more problems in this file are not shown"
        kept.append(Problem(message=message, file=last.file, function=last.function))
    return kept
