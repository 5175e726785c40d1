"""Which addresses are refused, in every form in which they can be written."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.config.addresses import parse_address, refusal

_NAT64 = IPv6Network("64:ff9b::/96")
OPENED = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.127.255.254", "::1", "fc00::1", "fd12:3456::1",
    "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1",
]  # fmt: skip
NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "168.63.129.16", "100.100.100.200",
    "192.0.0.192", "198.18.0.1", "198.19.255.255",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "fe80::1", "fec0::1",
    "ff02::1", "2001:2::1", "fd00:ec2::254", "fd00:ec2::23", "fd00:42::42",
    "fd00:c1::a9fe:a9fe", "fd20:ce::254", "100::1",
    "64:ff9b:1::1", "4000::1", "fe80::1%eth0",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("text", PUBLIC)
def test_the_internet_is_reachable(text: str) -> None:
    assert refusal(parse_address(text)) is None


@pytest.mark.parametrize("text", OPENED)
def test_private_addresses_are_the_operators_to_open(text: str) -> None:
    assert refusal(parse_address(text)) is not None
    assert refusal(parse_address(text), allow_private=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_some_addresses_are_reachable_by_no_setting(text: str) -> None:
    assert refusal(ip_address(text), allow_private=True) is not None


@pytest.mark.parametrize("text", [text for text in OPENED + NEVER if ":" not in text])
@pytest.mark.parametrize(
    "form",
    ["::ffff:{0}", "::{0}", "64:ff9b::{0}", "2002:{1:02x}{2:02x}:{3:02x}{4:02x}::1",
     "2001:0:{1:02x}{2:02x}:{3:02x}{4:02x}::1"],
    ids=["mapped", "compatible", "NAT64", "6to4", "Teredo"],
)  # fmt: skip
def test_no_form_of_ipv6_hides_such_an_address(text: str, form: str) -> None:
    hidden = IPv6Address(form.format(text, *IPv4Address(text).packed))
    assert refusal(hidden) is not None


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_what_it_means(address: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{address}")
    assert refusal(mapped) == refusal(address)
    assert parse_address(str(mapped)) == address


@given(st.ip_addresses(v=4))
def test_a_translated_address_is_reachable_only_if_it_is_public(address: IPv4Address) -> None:
    translated = IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))
    assert (refusal(translated, allow_private=True) is None) == (refusal(address) is None)


@given(st.ip_addresses())
def test_what_python_knows_as_special_is_refused(address: IPv4Address | IPv6Address) -> None:
    special = (
        address.is_private or address.is_loopback or address.is_link_local
        or address.is_multicast or address.is_unspecified or address.is_reserved
    )  # fmt: skip
    means_another = address.version == 6 and (address.ipv4_mapped or address in _NAT64)
    if special and not means_another:
        assert refusal(address) is not None


@given(st.ip_addresses())
def test_opening_private_addresses_never_closes_one(address: IPv4Address | IPv6Address) -> None:
    if refusal(address) is None:
        assert refusal(address, allow_private=True) is None
