"""Sums up what an invocation tried to reach, for its response and its log. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandbox.config.destinations import NOT_ALLOWED
from sandbox.documents.problems import printable
from sandbox.models import LogEntry, NetworkDenied, NetworkStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.config.destinations import NetworkPolicy

_USE_PROXY: Final = "matches a wildcard, which is reached only through the proxy in HTTPS_PROXY"
# Destinations in the one log line; the response has all.
_MOST_SHOWN: Final = 5


def with_names(
    stats: NetworkStats, names: Iterable[str], policy: NetworkPolicy, *, more: int = 0
) -> NetworkStats:
    """`stats` with the names that the function looked up in vain, as init reports them.

    `more` is how many further names init did not keep.
    """
    known = {item.host for item in policy.destinations}
    if policy.callback is not None:
        known.add(policy.callback.destination.host)
    # Some clients look up a name and then ask the proxy for it. The proxy knows more.
    asked = [item.destination for item in stats.allowed]
    asked += [item.destination for item in stats.denied]
    known |= {destination.rpartition(":")[0] for destination in asked}
    wildcards = tuple(host[1:] for host in known if host.startswith("*."))
    denied = []
    for name in dict.fromkeys(name.lower().removesuffix(".") for name in names):
        # A resolver may also ask for the IPv6 address of a name that is in /etc/hosts.
        if name not in known:
            reason = _USE_PROXY if wildcards and name.endswith(wildcards) else NOT_ALLOWED
            denied.append(NetworkDenied(destination=printable(name), reason=reason))
    if more:
        denied.append(NetworkDenied(destination="(others)", reason=NOT_ALLOWED, attempts=more))
    return replace(stats, denied=(*stats.denied, *denied))


def denied_entry(stats: NetworkStats) -> LogEntry | None:
    """A warning for the log if the invocation was denied a destination, else None."""
    if not stats.denied:
        return None
    shown = [f"{item.destination} ({item.reason})" for item in stats.denied[:_MOST_SHOWN]]
    left = len(stats.denied) - len(shown)
    rest = f", and {left} more" if left else ""
    return LogEntry(level="warn", message=f"network: denied {', '.join(shown)}{rest}")
