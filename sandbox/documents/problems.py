"""`Problem`: a mistake in a file, its place, and a hint how to mend it."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Severity = Literal["error", "warning"]

# A hostile file can have ten thousand problems. People read the first few.
MOST_PROBLEMS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem. Lines and columns count from 1. `function` is the name of its function.

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
    """`text` with escapes for characters that could move a terminal's cursor or reorder a line.

    The authors of file names and keys are not trusted.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object, *, most: int = 60) -> str:
    """`value` in quotes, cut to `most` characters."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'memory'?`, or "" if no name is similar."""
    near = near_names(word, known)
    return f"did you mean {near[0]!r}?" if near else ""


def near_names(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of `known` that are spelled like `word`, the most similar first."""
    return difflib.get_close_matches(word, list(known), n=3, cutoff=0.6) if len(word) < 128 else []


def has_errors(problems: Iterable[Problem]) -> bool:
    """Whether any of `problems` is an error."""
    return any(problem.severity == "error" for problem in problems)


def capped(problems: Sequence[Problem]) -> list[Problem]:
    """The first `MOST_PROBLEMS`, and one that says how many are left out."""
    kept = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        last = problems[MOST_PROBLEMS]
        count = len(problems) - MOST_PROBLEMS
        message = f"{count} more problems in this file are not shown"
        kept.append(Problem(message=message, file=last.file, function=last.function))
    return kept
