"""Decides which IP addresses are refused, whatever name leads to them. Pure.

The tables follow IANA's registries of special-purpose addresses. The operator can allow addresses
of machines and private networks, destination by destination. The other special addresses are never
allowed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

IPAddress = IPv4Address | IPv6Address
_Networks = tuple[tuple[IPv4Network | IPv6Network, str], ...]


def _networks(table: Mapping[str, str]) -> _Networks:
    return tuple((ip_network(text), kind) for text, kind in table.items())


_OPENED_BY_OPERATOR: Final = _networks(
    {
        "127.0.0.0/8": "a loopback",
        "::1/128": "a loopback",
        "10.0.0.0/8": "a private",
        "172.16.0.0/12": "a private",
        "192.168.0.0/16": "a private",
        "100.64.0.0/10": "a carrier's private",
        "fc00::/7": "a unique local",
        # Not used on the Internet, so some networks use them as private ones.
        "192.0.2.0/24": "a documentation",
        "198.51.100.0/24": "a documentation",
        "203.0.113.0/24": "a documentation",
        "2001:db8::/32": "a documentation",
        "3fff::/20": "a documentation",
    }
)
_NEVER: Final = _networks(
    {
        # Here, clouds give a machine its credentials. Some addresses look public, or are in ranges
        # that an operator may allow.
        "169.254.169.254/32": "a metadata service's",
        "168.63.129.16/32": "a metadata service's",
        "100.100.100.200/32": "a metadata service's",
        "192.0.0.192/32": "a metadata service's",
        # Amazon's services of a machine: metadata, credentials of pods, time, names.
        "fd00:ec2::/112": "a metadata service's",
        "fd00:42::42/128": "a metadata service's",
        "fd00:c1::a9fe:a9fe/128": "a metadata service's",
        "fd20:ce::254/128": "a metadata service's",
        "0.0.0.0/8": "an unspecified",
        "169.254.0.0/16": "a link-local",
        "192.0.0.0/24": "a reserved",
        "192.88.99.0/24": "a reserved",
        "198.18.0.0/15": "a benchmarking",
        "224.0.0.0/4": "a multicast",
        "240.0.0.0/4": "a reserved",
        "::/128": "an unspecified",
        "2001::/32": "a Teredo",
        "2001:2::/48": "a benchmarking",
        "2001::/23": "a reserved",
        "2002::/16": "a 6to4",
        "fe80::/10": "a link-local",
        "fec0::/10": "a site-local",
        "ff00::/8": "a multicast",
    }
)
# Hosts of the Internet have only these; the rest of IPv6 is reserved.
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")


def parse_address(text: str) -> IPAddress:
    """Parse an address. An IPv4 address written as IPv6 (`::ffff:…`) becomes IPv4.

    Raises:
        ValueError: `text` is no address.
    """
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def refusal(address: IPAddress, *, allow_private: bool = False) -> str | None:
    """Why `address` is refused, such as "is a private address", or None.

    With `allow_private`, it may be on a private network or this machine.
    """
    inner = address
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address
        if address in _NAT64:
            # The translator is on another network, so private addresses there are not ours.
            inner, allow_private = IPv4Address(int(address) & 0xFFFF_FFFF), False
    kind = _kind(inner, _NEVER)
    if kind is None and not allow_private:
        kind = _kind(inner, _OPENED_BY_OPERATOR)
    if kind is None and isinstance(inner, IPv6Address) and not _is_given_out(inner):
        kind = "a reserved"
    return f"is {kind} address" if kind else None


def _kind(address: IPAddress, networks: _Networks) -> str | None:
    """The kind of the first of `networks` that contains the address."""
    for network, kind in networks:
        if address in network:
            return kind
    return None


def _is_given_out(address: IPv6Address) -> bool:
    """Whether hosts use this address; never with a scope, as in `fe80::1%eth0`."""
    known = address in _GLOBAL_IPV6 or _kind(address, _OPENED_BY_OPERATOR) is not None
    return known and address.scope_id is None
