"""Addresses: octets that print like addresses, and know what they are."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.addresses import (
    BROADCAST_MAC,
    HIGHEST_VSID,
    LOWEST_VSID,
    ROUTER_LINK_LOCAL,
    Address,
    CustomerAddress,
    MacAddress,
    ProviderAddress,
    Vsid,
    gateway_mac,
    is_group_address,
    is_within,
    nested,
    overlapping,
)

vsids = st.integers(LOWEST_VSID, HIGHEST_VSID).map(Vsid)


@pytest.mark.parametrize("text", ["02:00:00:00:01:af", "02-00-00-00-01-AF", "02:00:00:00:01:AF"])
def test_a_mac_is_read_with_colons_or_hyphens_in_either_case(text: str) -> None:
    mac = MacAddress.parse(text)

    assert mac == b"\x02\x00\x00\x00\x01\xaf"
    assert str(mac) == "02:00:00:00:01:af"
    assert repr(mac) == "MacAddress(02:00:00:00:01:af)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02:00:00:00:01",
        "02:00:00:00:01:05:06",
        "02:00-00:00:01:05",
        "2:0:0:0:1:5",
        "020000000105",
        "02:00:00:00:01:0g",
        " 02:00:00:00:01:05",
        "02:00:00:00:01:05\n",
    ],
)
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a MAC address such as"):
        MacAddress.parse(text)


def test_a_mac_whose_first_octet_is_odd_is_a_group_address() -> None:
    assert BROADCAST_MAC.is_group
    assert MacAddress.parse("01:00:5e:00:00:01").is_group
    assert MacAddress.parse("33:33:00:00:00:01").is_group
    assert not MacAddress.parse("02:01:01:01:01:01").is_group


@given(st.binary(min_size=6, max_size=6).map(MacAddress))
def test_a_mac_is_read_back_from_how_it_prints(mac: MacAddress) -> None:
    assert MacAddress.parse(str(mac)) == mac


@given(st.ip_addresses())
def test_an_address_is_its_octets_and_prints_as_usual(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    customer = CustomerAddress.parse(str(address))

    assert customer == address.packed
    assert customer.version == address.version
    assert customer.ip == address
    assert str(customer) == str(address)
    assert type(customer) is CustomerAddress


def test_addresses_are_found_in_a_dictionary_by_a_slice_of_a_packet() -> None:
    packet = bytes.fromhex("45000014 0a000105")

    assert {CustomerAddress.parse("10.0.1.5"): "found"}[packet[4:8]] == "found"  # type: ignore[index]
    assert {ProviderAddress.parse("::1"), ProviderAddress.parse("0:0::1")} == {bytes(15) + b"\x01"}


@pytest.mark.parametrize(
    "text", ["", "10.0.1", "10.0.1.256", "010.0.1.5", "10.0.1.0/24", "fd00::1::2", "vm", "٣.0.0.1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        Address.parse(text)


def test_an_address_with_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="carries a zone"):
        Address.parse("fe80::1%eth0")


def test_an_address_says_which_kind_it_is_when_shown() -> None:
    assert repr(CustomerAddress.parse("fd00:1:0::5")) == "CustomerAddress(fd00:1::5)"
    assert repr(ProviderAddress.parse("192.0.2.1")) == "ProviderAddress(192.0.2.1)"


@given(vsids, vsids)
def test_every_virtual_subnet_has_a_gateway_mac_of_its_own(one: Vsid, other: Vsid) -> None:
    assert (gateway_mac(one) == gateway_mac(other)) == (one == other)


@given(vsids)
def test_a_gateway_mac_is_locally_administered_and_nobodys_group(vsid: Vsid) -> None:
    mac = gateway_mac(vsid)

    assert len(mac) == 6
    assert not mac.is_group
    assert mac[0] & 2
    assert int.from_bytes(mac[3:]) == vsid


def test_a_gateway_mac_stays_what_it_is_between_versions() -> None:
    # Guests keep it in their neighbour caches across upgrades and between gateways.
    assert str(gateway_mac(Vsid(5001))) == "02:69:73:00:13:89"


def test_the_router_of_every_virtual_subnet_is_fe80_1() -> None:
    assert str(ROUTER_LINK_LOCAL) == "fe80::1"


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("223.255.255.255", False),
        ("224.0.0.0", True),
        ("239.255.255.255", True),
        ("240.0.0.0", False),
        ("255.255.255.254", False),
        ("255.255.255.255", True),
        ("feff::", False),
        ("ff00::", True),
        ("ff02::1", True),
    ],
)
def test_group_addresses_are_multicast_and_the_limited_broadcast(text: str, group: bool) -> None:
    assert is_group_address(Address.parse(text)) is group


@pytest.mark.parametrize(
    ("inner", "outer", "within"),
    [
        ("10.0.1.0/24", "10.0.0.0/16", True),
        ("10.0.1.0/24", "10.0.1.0/24", True),
        ("10.0.0.0/16", "10.0.1.0/24", False),
        ("10.1.0.0/24", "10.0.0.0/16", False),
        ("::/128", "0.0.0.0/0", False),
        ("0.0.0.0/32", "::/0", False),
    ],
)
def test_prefix_is_within_another_that_holds_all_of_it(inner: str, outer: str, within: bool) -> None:
    assert is_within(ipaddress.ip_network(inner), ipaddress.ip_network(outer)) is within


def test_each_prefix_that_lies_in_another_is_told_with_the_widest_around_it() -> None:
    written = ["10.0.5.0/24", "10.0.0.0/24", "10.1.0.0/24", "10.0.0.0/16", "10.0.0.0/24", "::/0"]
    owners = list(enumerate(map(ipaddress.ip_network, written)))

    found = overlapping(owners, lambda owner: owner[1])

    assert [(around[0], one[0]) for around, one in found] == [(3, 1), (3, 4), (3, 0)]


def test_every_two_prefixes_of_which_one_lies_in_the_other_are_told_the_wider_first() -> None:
    written = ["10.0.5.0/24", "10.0.0.0/8", "10.1.0.0/24", "10.0.0.0/16", "10.0.5.0/24", "::/0", "fd00::/8"]
    owners = list(enumerate(map(ipaddress.ip_network, written)))

    found = {(around[0], one[0]) for around, one in nested(owners, lambda owner: owner[1])}

    assert found == {(1, 3), (1, 0), (1, 4), (1, 2), (3, 0), (3, 4), (0, 4), (5, 6)}
