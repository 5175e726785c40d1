"""Removes secrets from a function's logs and errors. Pure.

This is against accidents: a token in a stack trace, a password in a URL that could not be opened. A
function that wants to give a secret away can always write it in a form that this does not know. A
function's output is never changed.

It looks for each secret as it is, and in the forms that encoders give it: JSON's escapes, the
percent signs of a URL, base64 (at any place of a longer text, as in `user:password`),
hexadecimal digits, Python's `repr`, HTML. A secret of several lines is also each of its lines,
since a log has one entry for each.
"""

from __future__ import annotations

import base64
import copy
import html
import json
import re
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote, quote_plus

from sandbox.protocol.logs import CUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.models import FunctionError, LogEntry, NetworkStats

# A secret such as "1" or "test" would replace much of the logs.
SHORTEST: Final = 6
# An encoded part must be this long to be as distinctive.
_SHORTEST_CODE: Final = 8
# The first and last lines of a PEM key are no secrets.
_PUBLIC_LINE: Final = re.compile(r"-----(?:BEGIN|END) [A-Z0-9 ]+-----")
# An error shows the beginning of these streams, so a secret at its end may be cut.
_HEADS: Final = ("stdout", "stderr")


class Redactor:
    """Replaces each of these secrets (name to value) by `[secret NAME]`, except short ones.

    The first use takes half a millisecond for each secret, so keep one as long as the secrets stay
    the same.
    """

    none: ClassVar[Redactor]

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = {
            name: value for name, value in secrets.items() if len(value.strip()) >= SHORTEST
        }
        self._token = ""

    def with_token(self, token: str) -> Redactor:
        """The same, which also replaces the invocation's internal token.

        Text, URLs and JSON leave the letters of a token unchanged, so one form is enough.
        """
        if not token:
            return self
        if self._secrets:
            _ = self._pattern  # made once, not by every copy
        redactor = copy.copy(self)
        redactor._token = token
        return redactor

    def entry(self, entry: LogEntry) -> LogEntry:
        """`entry` without secrets; itself if it has none."""
        if not self._secrets and not self._token:
            return entry
        message = self._text(entry.message)
        if message.endswith(CUT):
            message = self._beginning(message.removesuffix(CUT)) + CUT
        data = None if entry.data is None else self._value(entry.data)
        timestamp = self._text(entry.timestamp)
        if (message, data, timestamp) == (entry.message, entry.data, entry.timestamp):
            return entry
        return replace(entry, message=message, data=data, timestamp=timestamp)

    def network(self, stats: NetworkStats) -> NetworkStats:
        """`stats` without secrets: a looked-up name can hold one, in lower case."""
        if not self._secrets or not stats.denied:
            return stats
        names = Redactor({name: value.lower() for name, value in self._secrets.items()})
        denied = [
            replace(item, destination=self._text(names._text(item.destination)))
            for item in stats.denied
        ]
        return replace(stats, denied=tuple(denied))

    def error(self, error: FunctionError) -> FunctionError:
        """`error` without secrets; itself if it has none."""
        if not self._secrets and not self._token:
            return error
        details = self._value(error.details)
        for name in _HEADS:
            if isinstance(details.get(name), str):
                details[name] = self._beginning(details[name])
        code, message = self._text(error.code), self._text(error.message)
        if (code, message, details) == (error.code, error.message, error.details):
            return error
        return replace(error, code=code, message=message, details=details)

    @cached_property
    def _forms(self) -> dict[str, str]:
        """Each form of each secret and its replacement, the longest first."""
        found: dict[str, str] = {}
        for name, value in self._secrets.items():
            for form in _forms(value):
                found.setdefault(form, f"[secret {name}]")
        return dict(sorted(found.items(), key=lambda item: -len(item[0])))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._forms)))

    def _text(self, text: str) -> str:
        if self._token:
            text = text.replace(self._token, "[secret internal_token]")
        if not self._secrets:
            return text
        return self._pattern.sub(lambda match: self._forms[match[0]], text)

    def _value(self, value: Any) -> Any:
        """A copy of a JSON value without secrets, in its keys too."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {self._text(str(key)): self._value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**64:
            return self._forms.get(str(value), value)
        return value

    def _beginning(self, text: str) -> str:
        """`text` without a secret that was cut off at its end."""
        for form, mark in self._forms.items():
            at = text.find(form[:SHORTEST], max(len(text) - len(form), 0))
            while at >= 0 and not form.startswith(text[at:]):
                at = text.find(form[:SHORTEST], at + 1)
            if at >= 0:
                return text[:at] + mark
        return text


Redactor.none = Redactor({})


def _forms(value: str) -> Iterator[str]:
    """The forms in which a secret may be written."""
    for part in (value, value.strip(), *map(str.strip, value.splitlines())):
        if len(part) < SHORTEST or _PUBLIC_LINE.fullmatch(part):
            continue
        yield part
        yield json.dumps(part)[1:-1]
        yield json.dumps(part, ensure_ascii=False)[1:-1]
        yield repr(part)[1:-1]
        yield html.escape(part)
        octets = part.encode("utf-8", "surrogatepass")
        yield repr(octets)[2:-1]
        yield from _escaped_for_urls(octets)
        yield octets.hex()
        yield octets.hex().upper()
        yield from (code for code in _base64(octets) if len(code) >= _SHORTEST_CODE)


def _escaped_for_urls(octets: bytes) -> Iterator[str]:
    # Python's quote and quote_plus, and what JavaScript's encodeURIComponent and encodeURI leave.
    for safe in ("", "/", "!'()*", ";,/?:@&=+$!'()*#"):
        escaped = quote(octets, safe=safe)
        yield escaped
        yield re.sub("%..", lambda match: match[0].lower(), escaped)
    yield quote_plus(octets)


def _base64(octets: bytes) -> Iterator[str]:
    """`octets` in base64, alone and within a longer text, in both alphabets."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        alone = encode(octets).decode("ascii")
        yield alone
        yield alone.rstrip("=")
        for before in range(3):
            # Only the characters that do not depend on the neighbouring bytes.
            code = encode(bytes(before) + octets).decode("ascii")
            yield code[(before * 8 + 5) // 6 : (before + len(octets)) * 8 // 6]
