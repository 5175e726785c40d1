"""Signatures of webhooks: whether a header's value is an HMAC of the body. Pure.

Two forms:

- `plain`: the signature in hexadecimal digits or base64, as it is or after `sha256=` or `sha1=`.
  GitHub, Gitea, Shopify and most others.
- `stripe`: `t=TIME,v1=SIGNATURE`, in hexadecimal digits, over `TIME.BODY`; of several `v1` one has
  to fit. TIME is in seconds since the epoch.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Algorithm = Literal["hmac-sha256", "hmac-sha1"]
Format = Literal["plain", "stripe"]

_HASHES: Final = {"hmac-sha256": hashlib.sha256, "hmac-sha1": hashlib.sha1}
# Signs for whoever is not there, so that it takes as long. Nobody knows it.
_NOBODY: Final = secrets.token_bytes(32)


def is_genuine(  # noqa: PLR0913
    value: str,
    body: bytes,
    *,
    secret: str | None,
    algorithm: Algorithm,
    form: Format,
    tolerance: float,
    now: float,
) -> bool:
    """Whether `value` signs `body`. Never fails, and takes as long whatever is wrong.

    Without a secret, nothing is genuine. `tolerance` is how far the signature's time may be from
    `now`, in seconds.
    """
    if form == "stripe":
        prefix, signatures, in_time = _stripe(value, tolerance=tolerance, now=now)
    else:
        prefix, signatures, in_time = b"", _plain(value), True
    digest = hmac.new(secret.encode() if secret else _NOBODY, prefix, _HASHES[algorithm])
    digest.update(body)
    expected = digest.digest()
    matches = [hmac.compare_digest(expected, signature) for signature in signatures]
    return any(matches) and in_time and bool(secret)


def _plain(value: str) -> Sequence[bytes]:
    text = value.strip()
    for prefix in ("sha256=", "sha1="):
        text = text.removeprefix(prefix)
    found = list(_hexadecimal(text))
    with contextlib.suppress(binascii.Error, ValueError):
        found.append(base64.b64decode(text, validate=True))
    return found


def _stripe(value: str, *, tolerance: float, now: float) -> tuple[bytes, Sequence[bytes], bool]:
    """What stands before the body, the signatures, and whether they are young enough."""
    fields = [part.strip().partition("=") for part in value.split(",")]
    times = [text for name, _, text in fields if name == "t"]
    moment = times[0] if len(times) == 1 else ""
    known = moment.isascii() and moment.isdigit() and len(moment) <= 12
    in_time = known and abs(now - int(moment)) <= tolerance
    signatures = [item for name, _, text in fields if name == "v1" for item in _hexadecimal(text)]
    return f"{moment}.".encode("utf-8", "replace"), signatures[:10], in_time


def _hexadecimal(text: str) -> Sequence[bytes]:
    try:
        return [bytes.fromhex(text)]
    except ValueError:
        return []
