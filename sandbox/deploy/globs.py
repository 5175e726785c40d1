"""Patterns of file paths, as build tools write them: `src/**/*.ts`.

`*` and `?` stop at `/`, `**` matches any number of directories, `[…]` one character of a set.
A pattern without `/` matches in any directory.
"""

from __future__ import annotations

import functools
import re

_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|.", re.DOTALL)
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matches(path: str, pattern: str) -> bool:
    """Whether `path`, relative and with `/` as separator, matches the pattern."""
    return _compiled(pattern).fullmatch(path) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pattern = pattern.removeprefix("./")
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    if pattern.endswith("/"):
        pattern += "**"
    try:
        return re.compile("".join(map(_translated, _TOKENS.findall(pattern))), re.DOTALL)
    except re.error:  # a set such as `[b-a]`, which stands for itself
        return re.compile(re.escape(pattern))


def _translated(token: str) -> str:
    if token in _MEANINGS:
        return _MEANINGS[token]
    if len(token) < 3 or token[0] != "[":
        return re.escape(token)
    negated = token[1] in "!^"
    # In a set only ranges are special here; `re` has more special characters.
    letters = re.sub(r"([\\\[\]^&~|]|(?<=-)-)", r"\\\1", token[2 if negated else 1 : -1])
    return f"(?!/)[{'^' if negated else ''}{letters}]"
