"""When a host claims VMs that are rewritten: by addresses of its pools, and for them."""

from __future__ import annotations

import math
from ipaddress import ip_network

import pytest

from gateway.host.registration import Claim, Complaint, Effect
from gateway.lookup.claims import Mode, Reason
from policies.addresses import Prefix, ProviderAddress
from tests.gateway.host.registering import KEY, PORT, Host, claim

POOL = ip_network("198.51.100.128/26")
POOL6 = ip_network("2001:db8:1::/112")
INSIDE = (ProviderAddress.parse("198.51.100.130"), ProviderAddress.parse("2001:db8:1::2"))
ANOTHER = (ProviderAddress.parse("198.51.100.131"), ProviderAddress.parse("2001:db8:1::3"))


@pytest.fixture
def host() -> Host:
    return Host()


def pooled(host: Host, now: float, *pools: Prefix) -> list[Effect]:
    """The host's pools are these, unless none is named."""
    return host.registrar.configure([PORT], now, pools or (POOL, POOL6))


def test_a_rewritten_vm_is_here_by_an_address_of_the_hosts_pools(host: Host) -> None:
    pooled(host, 0.0)
    host.registrar.answered(host.opened(), 0.1)
    assert host.rewrite("hv1", 0.2, INSIDE) == []

    assert host.registrar.heard(KEY, 5.0) == []
    assert host.registrar.deadline == math.inf


def test_a_rewritten_vm_of_another_host_is_not_here_although_both_have_the_same_pool(host: Host) -> None:
    pooled(host, 0.0)
    host.rewrite("hv2", 0.0, INSIDE)

    assert host.registrar.port_opened(KEY, 0.0) == []
    assert claim(host.registrar.heard(KEY, 0.5)).mode is Mode.ANNOUNCE


def test_a_rewritten_vm_whose_address_is_of_no_pool_any_more_is_registered_for_another(host: Host) -> None:
    pooled(host, 0.0)
    host.registrar.answered(host.opened(), 0.1)
    host.rewrite("hv1", 0.2, INSIDE)

    made = claim(pooled(host, 9.0, ip_network("198.51.100.131/32"), ip_network("2001:db8:1::3/128")))
    assert made.mode is Mode.REGISTER
    host.registrar.answered(made, 9.1)
    assert host.rewrite("hv1", 9.2, ANOTHER) == []
    assert list(host.advance(1000.0)) == []


def test_a_rewritten_vm_whose_old_address_is_left_by_a_node_that_has_not_heard_yet_is_registered_again(
    host: Host,
) -> None:
    pooled(host, 0.0)
    host.registrar.answered(host.opened(), 0.1)
    host.rewrite("hv1", 0.2, INSIDE)
    made = claim(pooled(host, 9.0, ip_network("198.51.100.131/32"), ip_network("2001:db8:1::3/128")))
    for at, then in ((9.0, 10.0), (10.0, 12.0), (12.0, 16.0)):
        assert host.registrar.answered(made, at) == []
        ((now, again),) = host.advance(then)
        made = claim([again])
        assert (now, made.mode) == (then, Mode.REGISTER)
    host.registrar.answered(made, 16.1)
    assert host.rewrite("hv1", 16.2, ANOTHER) == []
    assert list(host.advance(1000.0)) == []


def test_a_rewritten_vm_that_is_given_an_address_of_a_former_pool_is_registered_for_another(
    host: Host,
) -> None:
    pooled(host, 0.0, ip_network("198.51.100.131/32"), ip_network("2001:db8:1::3/128"))
    host.registrar.answered(host.opened(), 0.1)
    assert host.rewrite("hv1", 0.2, INSIDE) == []
    ((_, again),) = host.advance(3.0)
    host.registrar.answered(claim([again]), 3.1)
    assert host.rewrite("hv1", 3.2, ANOTHER) == []
    assert list(host.advance(1000.0)) == []


def test_a_pool_that_is_added_changes_nothing_for_those_who_have_an_address(host: Host) -> None:
    pooled(host, 0.0)
    host.registrar.answered(host.opened(), 0.1)
    host.rewrite("hv1", 0.2, INSIDE)

    assert pooled(host, 9.0, POOL, POOL6, ip_network("203.0.113.0/26")) == []


def test_a_rewritten_vm_that_has_left_for_another_host_is_not_registered_for_its_address(
    host: Host,
) -> None:
    pooled(host, 0.0)
    host.rewrite("hv1", 0.0, INSIDE)
    host.registrar.answered(host.opened(), 0.1)
    host.rewrite("hv2", 0.2, ANOTHER)

    assert pooled(host, 9.0, ip_network("203.0.113.0/26")) == []


@pytest.mark.parametrize("mode", [Mode.REGISTER, Mode.ANNOUNCE])
def test_a_host_whose_pools_are_empty_says_so_once_and_tries_again_every_30_seconds(
    host: Host, mode: Mode
) -> None:
    if mode is Mode.ANNOUNCE:
        host.rewrite("hv2", 0.0, INSIDE)
        host.registrar.port_opened(KEY, 0.0)
        made = claim(host.registrar.heard(KEY, 0.0))
    else:
        made = host.opened()
    assert host.registrar.refused(made, Reason.NO_ADDRESS, 1.0) == [Complaint(KEY, Reason.NO_ADDRESS)]

    for at in (31.0, 61.0, 91.0):
        ((now, again),) = host.advance(at)
        assert now == at
        assert isinstance(again, Claim)
        assert again.mode is mode
        assert host.registrar.refused(again, Reason.NO_ADDRESS, at) == []
