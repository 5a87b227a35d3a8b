from __future__ import annotations

import pytest

from gateway.underlay.interfaces import Attachment, Link, check_ports, choose
from policies.addresses import Address, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError
from policies.model import Port, Underlay

LINKS = (
    Link("lo", 65536, (Address.parse("127.0.0.1"), Address.parse("192.0.2.253")), is_loopback=True),
    Link("eth0", 9000, (Address.parse("203.0.113.1"),)),
    Link("eth1", 1500, (Address.parse("192.0.2.254"), Address.parse("2001:db8::254"))),
)


def settings(*addresses: str, interfaces: tuple[str, ...] = (), mtu: int | None = None) -> Underlay:
    return Underlay(tuple(map(ProviderAddress.parse, addresses)), interfaces, mtu)


def problems(asked: Underlay) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        choose(asked, LINKS)
    return [str(problem) for problem in caught.value.problems]


def test_the_interface_and_its_mtu_are_found_from_the_addresses() -> None:
    assert choose(settings("192.0.2.254", "2001:db8::254"), LINKS) == Attachment(("eth1",), 1500)


def test_the_smallest_mtu_counts_among_several_interfaces() -> None:
    assert choose(settings("203.0.113.1", "192.0.2.254"), LINKS) == Attachment(("eth0", "eth1"), 1500)


def test_a_configured_mtu_is_taken_if_the_interface_carries_it() -> None:
    assert choose(settings("203.0.113.1", mtu=1600), LINKS).mtu == 1600


def test_a_configured_mtu_above_the_interfaces_is_wrong() -> None:
    assert problems(settings("192.0.2.254", mtu=9000)) == ["underlay.mtu: 9000 is more than the 1500 of eth1"]


def test_an_address_on_no_interface_is_wrong_and_the_machines_are_listed() -> None:
    assert problems(settings("192.0.2.254", "192.0.2.9")) == [
        (
            "underlay.provider_addresses: 192.0.2.9 is on no interface of this machine; "
            "its addresses are 203.0.113.1, 192.0.2.254, 2001:db8::254"
        )
    ]


def test_an_interface_that_is_not_there_is_wrong_and_the_machines_are_listed() -> None:
    assert problems(settings("192.0.2.254", interfaces=("eth1", "eth7"))) == [
        "underlay.interfaces: eth7 is not on this machine; its interfaces are lo, eth0, eth1"
    ]


def test_an_address_on_another_interface_than_those_named_is_wrong() -> None:
    assert problems(settings("203.0.113.1", interfaces=("eth1",))) == [
        "underlay.provider_addresses: 203.0.113.1 is on eth0, not on eth1"
    ]


def test_an_address_on_loopback_needs_the_interfaces_named() -> None:
    assert problems(settings("192.0.2.253")) == [
        "underlay.interfaces: 192.0.2.253 is on lo: name the interfaces that lead to the datacenter"
    ]
    assert choose(settings("192.0.2.253", interfaces=("eth1",)), LINKS) == Attachment(("eth1",), 1500)


LINK_LOCAL, ADVERTISED = Address.parse("fe80::1"), Address.parse("2001:db8:9::9")


def refused(*names: str) -> list[str]:
    vnet0 = Link("vnet0", 1500, (LINK_LOCAL, ADVERTISED), frozenset({LINK_LOCAL, ADVERTISED}))
    ports = [Port(name, "red", Vsid(5001), MacAddress(b"\2\0\0\0\0\1"), ()) for name in names]
    try:
        check_ports(ports, Attachment(("eth1",), 1500), (*LINKS, vnet0))
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_port_on_an_interface_of_the_machines_own_is_refused() -> None:
    assert refused("eth1", "vnet0", "eth0", "lo") == [
        "host.port[eth1].interface: eth1 belongs to the underlay; name an interface that leads to a VM",
        (
            "host.port[eth0].interface: eth0 has this machine's address 203.0.113.1; "
            "name an interface that leads to a VM"
        ),
        (
            "host.port[lo].interface: lo has this machine's address 127.0.0.1; "
            "name an interface that leads to a VM"
        ),
    ]


def test_a_port_that_is_not_there_yet_or_has_learned_its_addresses_is_no_problem() -> None:
    assert refused("vnet0", "vnet7") == []


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(problems(settings("192.0.2.9", "192.0.2.8", interfaces=("eth7",)))) == 3
