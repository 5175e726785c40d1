"""A strict reader of JSON that was written by somebody else.

Never crashes the host: whatever the bytes, the result is a value that can be written again as
JSON, or a `JSONValueError` that says what is wrong. Integers pass through exactly, of any size
that the interpreter converts; of a key that comes twice, the last value wins, as with most readers.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 100
# Strings are passed over whole, so that brackets in them do not count.
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_BYTE_ORDER_MARK: Final = "\ufeff"


class JSONValueError(ValueError):
    """Text that is no JSON, or JSON that cannot be passed on; the message says why and where."""


def loads(data: bytes) -> Any:
    """The value that `data` holds.

    Raises:
        JSONValueError: it is no JSON, no UTF-8, too deep, or has a number that JSON has not.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise JSONValueError(f"invalid UTF-8 at byte {error.start}") from None
    return loads_text(text.removeprefix(_BYTE_ORDER_MARK))


def loads_text(text: str) -> Any:
    """As `loads`, from text."""
    if exceeds_depth(text):
        raise JSONValueError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise JSONValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except JSONValueError:
        raise
    except ValueError as error:  # an integer over the interpreter's limit of digits
        raise JSONValueError(str(error).partition(";")[0]) from None


def exceeds_depth(text: str) -> bool:
    """Whether objects and arrays in `text` nest deeper than MAX_DEPTH; linear, not recursive."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif bracket in "]}":
            depth -= 1
    return False


def _refuse_constant(name: str) -> NoReturn:
    raise JSONValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JSONValueError(f"the number {text[:32]} is out of range")
    return number
