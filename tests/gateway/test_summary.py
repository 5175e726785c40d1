"""What a response says of names that were looked up in vain."""

from __future__ import annotations

from sandbox.config.destinations import Callback, Destination, NetworkPolicy
from sandbox.gateway.summary import denied_entry, with_names
from sandbox.models import NetworkAllowed, NetworkDenied, NetworkStats

POLICY = NetworkPolicy(
    destinations=(Destination("api.example.org", 443), Destination("*.x.org", 443)),
    callback=Callback.parse("http://alyx:8090"),
)


def test_names_that_were_looked_up_are_denied_but_those_in_etc_hosts() -> None:
    names = ["evil.example.org", "EVIL.example.org.", "api.example.org", "alyx", "a.x.org"]
    stats = with_names(NetworkStats(), names, POLICY)
    assert [item.destination for item in stats.denied] == ["evil.example.org", "a.x.org"]
    assert "HTTPS_PROXY" in stats.denied[1].reason


def test_names_that_the_proxy_was_asked_for_are_not_listed_twice() -> None:
    stats = NetworkStats(
        allowed=(NetworkAllowed(destination="a.x.org:443", connections=1),),
        denied=(NetworkDenied(destination="evil.org:443", reason="r"),),
    )
    assert with_names(stats, ["a.x.org", "evil.org"], POLICY) == stats


def test_names_without_a_policy_and_those_that_were_not_kept() -> None:
    stats = with_names(NetworkStats(), ["a\x1b[31m"], NetworkPolicy(), more=3)
    assert [(item.destination, item.attempts) for item in stats.denied] == [
        (r"a\x1b[31m", 1), ("(others)", 3)
    ]  # fmt: skip


def test_the_log_has_one_warning_of_bounded_length() -> None:
    assert denied_entry(NetworkStats()) is None
    denied = tuple(NetworkDenied(destination=f"h{n}:1", reason="r") for n in range(100))
    entry = denied_entry(NetworkStats(denied=denied))
    assert entry is not None
    assert entry.level == "warn"
    assert entry.message.startswith("network: denied h0:1 (r), ")
    assert entry.message.endswith(", and 95 more")
