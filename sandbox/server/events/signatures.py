"""Signatures of webhooks: whether a header's value is an HMAC of the body. Pure.

Two forms:

- `plain`: the signature in hexadecimal digits or base64, with or without `sha256=` or `sha1=`
  before it. GitHub, Gitea, Shopify and most others use it.
- `stripe`: `t=TIME,v1=SIGNATURE`, in hexadecimal digits, over `TIME.BODY`. TIME is in seconds since
  the epoch. If there are several `v1`, one of them has to match.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Algorithm = Literal["hmac-sha256", "hmac-sha1"]
Format = Literal["plain", "stripe"]

_HASHES: Final = {"hmac-sha256": hashlib.sha256, "hmac-sha1": hashlib.sha1}
# Takes the place of a missing secret, so that the check takes as long. Nobody knows it.
_UNKNOWN: Final = secrets.token_bytes(32)


@dataclass(frozen=True, kw_only=True)
class SignatureScheme:
    """How a sender signs. `tolerance` is how old or new a signature may be, in seconds."""

    algorithm: Algorithm = "hmac-sha256"
    form: Format = "plain"
    tolerance: float = 0.0


def is_genuine(
    value: str, body: bytes, *, secret: str | None, scheme: SignatureScheme, now: float
) -> bool:
    """Whether `value` signs `body`. Never raises, and takes as long whatever is wrong.

    Without a secret, nothing is genuine.
    """
    if scheme.form == "stripe":
        prefix, signatures, in_time = _stripe(value, tolerance=scheme.tolerance, now=now)
    else:
        prefix, signatures, in_time = b"", _plain(value), True
    key = secret.encode() if secret else _UNKNOWN
    digest = hmac.new(key, prefix, _HASHES[scheme.algorithm])
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
    """The signed bytes before the body, the signatures, and whether their time is near `now`."""
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
