"""Patterns of file paths, as build tools write them: `src/**/*.ts`.

`*` and `?` stop at `/`, `**` passes any number of directories, `[…]` is one character of a set.
A pattern without `/` fits a file of that name in any directory.

Patterns come from manifests, so a match takes time that grows with path times pattern, and no
more: all ways through the pattern are followed at once, as the bits of one number.
"""

from __future__ import annotations

import functools
import re
from typing import Final

_TOKENS: Final = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|.", re.DOTALL)

# It is any text and a slash, or nothing at all.
_PARTS: Final = {"**/": ("**/", "/")}


def matches(path: str, pattern: str) -> bool:
    """Whether `path`, relative and with `/` between its parts, fits the pattern."""
    return _compiled(pattern).fits(path)


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> _Pattern:
    pattern = pattern.removeprefix("./")
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    if pattern.endswith("/"):
        pattern += "**"
    tokens = _TOKENS.findall(pattern)
    try:
        return _Pattern(tokens)
    except re.error:  # a set such as `[b-a]`, which fits itself
        return _Pattern(list(pattern.removeprefix("**/")))


class _Pattern:
    """An automaton without backtracking: bit i is set while token i may match next."""

    def __init__(self, tokens: list[str]) -> None:
        parts = [part for token in tokens for part in _PARTS.get(token, (token,))]
        self._end = 1 << len(parts)
        # Tokens that take any number of characters: of any kind, or any but `/`.
        self._any = _bits(parts, "**", "**/")
        self._name = _bits(parts, "*")
        self._directories = _bits(parts, "**/")
        self._single = [
            (1 << number, re.compile(_translated(part), re.DOTALL))
            for number, part in enumerate(parts)
            if part not in ("*", "**", "**/")
        ]
        self._takers = functools.cache(self._find_takers)

    def fits(self, path: str) -> bool:
        """Whether the whole of `path` matches."""
        state = self._enter(1)
        for character in path:
            stays = state & (self._any if character == "/" else self._any | self._name)
            state = stays | self._enter((state & self._takers(character) | stays) << 1)
            if not state:
                return False
        return bool(state & self._end)

    def _enter(self, state: int) -> int:
        """The state, and the tokens behind those that match nothing."""
        optional = self._any | self._name
        while True:
            more = state | (state & optional) << 1 | (state & self._directories) << 2
            if more == state:
                return state
            state = more

    def _find_takers(self, character: str) -> int:
        """The tokens that match this one character."""
        return sum(bit for bit, token in self._single if token.fullmatch(character))


def _bits(parts: list[str], *wanted: str) -> int:
    return sum(1 << number for number, part in enumerate(parts) if part in wanted)


def _translated(part: str) -> str:
    """A part for one character, as a regular expression."""
    if part == "?":
        return "[^/]"
    if len(part) < 3 or part[0] != "[":
        return re.escape(part)
    negated = part[1] in "!^"
    # A range is all that a set means here; `re` reserves more.
    letters = re.sub(r"([\\\[\]^&~|]|(?<=-)-)", r"\\\1", part[2 if negated else 1 : -1])
    return f"(?!/)[{'^' if negated else ''}{letters}]"
