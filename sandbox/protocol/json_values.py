"""A strict reader of JSON that was written by somebody else.

Never crashes the host: whatever the bytes, the result is a value that can be written again as
JSON, or a `JSONValueError` that says what is wrong, in time that grows with their number only.
Nor does it fill the host's memory: an empty array is two bytes of JSON and becomes about ninety, an
object of one key becomes 230, so their number has a cap. Texts and numbers grow twelvefold at most.
Integers pass through exactly, of any size that the interpreter converts; of a key that comes
twice, the last value wins, as with most readers.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH: Final = 100
# Objects and arrays in one document: up to 130 MB of them.
MAX_CONTAINERS: Final = 500_000
_BYTE_ORDER_MARK: Final = "\ufeff"
# A text without its end runs to the end of the data: a pattern that failed there would be tried
# again from every quote in it, which takes time with the square of the length.
_TEXT: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_TEXTS: Final = re.compile(_TEXT.encode(), re.DOTALL)
_TOKENS_IN_A_ROW: Final = re.compile(rf'(?:{_TEXT}|[^"]++){{1,10000}}+'.encode(), re.DOTALL)
_TOKENS: Final = re.compile(rf"{_TEXT}|[^\s\"\[\]{{}},:]+", re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class JSONValueError(ValueError):
    """Text that is no JSON, or JSON that cannot be passed on; the message says why and where."""


class _RefusedNumberError(Exception):
    """A number that Python's reader takes and JSON does not know, or that does not fit."""

    def __init__(self, token: str, reason: str) -> None:
        super().__init__(token, reason)
        self.token = token
        self.reason = reason


def loads(data: bytes) -> Any:
    """The value that `data` holds, a byte order mark at its beginning aside.

    Raises:
        JSONValueError: it is no JSON, no UTF-8, too deep, or has a number that JSON has not.
    """
    try:
        text = data.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise JSONValueError(f"invalid UTF-8 at byte {error.start}") from None
    _check_brackets(data, MAX_DEPTH, MAX_CONTAINERS)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JSONValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except _RefusedNumberError as refused:
        place = _place(text, refused.token.__eq__)
        raise JSONValueError(refused.reason + place) from None
    except ValueError:  # the interpreter's limit, which keeps conversions from taking minutes
        digits = sys.get_int_max_str_digits()
        place = _place(text, lambda token: len(token) > digits and token.lstrip("-").isdecimal())
        raise JSONValueError(f"an integer of more than {digits} digits{place}") from None


def exceeds_depth(data: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether objects and arrays in `data` nest deeper than `most`; linear, not recursive."""
    try:
        _check_brackets(data, most)
    except JSONValueError:
        return True
    return False


def _check_brackets(data: bytes, most_deep: int, most: float = math.inf) -> None:
    """Refuse what nests too deep, or would become too many values; cheap for all the others."""
    if data.count(b"[") + data.count(b"{") <= most_deep:
        return
    depth = count = position = 0
    while part := _TOKENS_IN_A_ROW.match(data, position):
        position = part.end()
        # In parts: each text that is cut out leaves a piece behind until the end of the call.
        for bracket in _TEXTS.sub(b"", part[0]).translate(None, _NOT_BRACKETS):
            if bracket not in b"[{":
                depth -= 1
                continue
            depth += 1
            count += 1
            if depth > most_deep:
                raise JSONValueError(f"nested deeper than {most_deep} levels")
            if count > most:
                raise JSONValueError(f"more than {most} objects and arrays")


def _place(text: str, matches: Callable[[str], bool]) -> str:
    """Where the first token that matches stands; nothing if there is none."""
    for found in _TOKENS.finditer(text):
        if not found[0].startswith('"') and matches(found[0]):
            line = text.count("\n", 0, found.start()) + 1
            column = found.start() - text.rfind("\n", 0, found.start())
            return f" at line {line}, column {column}"
    return ""


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedNumberError(name, f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedNumberError(text, f"the number {text[:32]} is out of range")
    return number


# Made once: `json.loads` would make one each time.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
