from __future__ import annotations

import msgspec
import pytest

from gateway.http.principals import Principal
from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored
from gateway.lookup.visibility import HIDDEN, Views, view
from policies.model import Network, Tenant
from policies.services import ALL_TENANTS, Role
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    HV3,
    NETWORK,
    OPERATOR,
    READER,
    WEB,
    ca,
    mac,
    pa,
)

RED = next(tenant for tenant in NETWORK.tenants if tenant.name == "red")


def names(network: Network) -> tuple[set[str], set[str], set[str]]:
    return (
        {each.name for each in network.hosts},
        {each.name for each in network.gateways},
        {each.name for each in network.tenants},
    )


def test_operators_and_gateways_see_everything() -> None:
    for principal in (OPERATOR, GATEWAY):
        assert view(principal, NETWORK).network(NETWORK) == NETWORK


def test_reader_of_all_tenants_sees_those_to_come_too_and_neither_hosts_nor_gateways() -> None:
    everybodys = Principal("prometheus", Role.READER, frozenset({ALL_TENANTS}))
    network = msgspec.structs.replace(NETWORK, tenants=(*NETWORK.tenants, Tenant("green", (), ())))

    assert names(view(everybodys, NETWORK).network(NETWORK)) == (set(), set(), {"red", "blue"})
    assert names(view(everybodys, network).network(network)) == (set(), set(), {"red", "blue", "green"})


def test_host_sees_its_tenants_all_gateways_and_the_hosts_that_share_a_tenant() -> None:
    shown = view(HV1, NETWORK)

    assert names(shown.network(NETWORK)) == ({"hv1", "hv2"}, {"edge-1"}, {"red"})
    assert shown.sees(WEB)
    assert shown.sees(DB)
    assert not shown.sees(BLUE)


def test_host_does_not_see_which_other_tenants_another_host_has() -> None:
    hosts = {host.name: host.tenants for host in view(HV1, NETWORK).network(NETWORK).hosts}

    assert hosts == {"hv1": ("red",), "hv2": ("red",)}


def test_reader_sees_its_tenants_and_neither_hosts_nor_gateways() -> None:
    assert names(view(READER, NETWORK).network(NETWORK)) == (set(), set(), {"red"})


def test_host_that_the_network_does_not_have_sees_no_tenant() -> None:
    stranger = Principal("hv9", Role.HOST)

    assert names(view(stranger, NETWORK).network(NETWORK)) == (set(), {"edge-1"}, set())
    assert not view(stranger, NETWORK).sees(WEB)


def test_identities_of_sites_are_for_those_who_dial_them() -> None:
    entry = Stored(NamedKey(Kind.TENANT, "red"), RED, 1, 1)

    for principal in (HV1, READER):
        shown = view(principal, NETWORK).entry(entry)
        assert shown is not None
        assert isinstance(shown.value, Tenant)
        assert [site.ike for site in shown.value.sites] == [HIDDEN]
    assert view(GATEWAY, NETWORK).entry(entry) == entry


def test_records_and_their_tombstones_are_seen_by_their_virtual_subnet_alone() -> None:
    record = Stored(RecordKey(BLUE, ca("10.0.1.5")), Placement(mac(1), pa("198.51.100.13"), "hv3"), 1, 9)
    tombstone = msgspec.structs.replace(record, value=None)

    for entry in (record, tombstone):
        assert view(HV1, NETWORK).entry(entry) is None
        assert view(READER, NETWORK).entry(entry) is None
        assert view(HV3, NETWORK).entry(entry) == entry


def test_leases_and_their_ends_are_seen_by_their_virtual_subnet_alone() -> None:
    grant = Grant(BLUE, ca("172.16.0.9"), "edge-1", leased=True)
    lease = Stored(LeaseKey(pa("192.0.2.65")), grant, 1, 9)
    ended = msgspec.structs.replace(lease, value=msgspec.structs.replace(grant, returned_at=5.0))

    for entry in (lease, ended):
        assert view(HV1, NETWORK).entry(entry) is None
        assert view(READER, NETWORK).entry(entry) is None
        for principal in (HV3, GATEWAY, OPERATOR):
            assert view(principal, NETWORK).entry(entry) == entry
    for principal in (HV1, HV3, GATEWAY):
        assert view(principal, NETWORK).entry(msgspec.structs.replace(lease, value=None)) is None


def test_views_that_are_equal_are_one_until_the_network_is_another() -> None:
    networks = [NETWORK]
    views = Views(lambda: networks[-1])
    twin = Principal("dashboard-2", Role.READER, frozenset({"red"}))

    first = views.of(READER)
    assert views.of(twin) is first
    networks.append(msgspec.structs.replace(NETWORK, tenants=()))
    assert views.of(READER) is not first
    assert not views.of(READER).sees(WEB)


def test_views_of_hosts_that_there_are_none_of_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.lookup.visibility.MOST_VIEWS", 10)
    views = Views(lambda: NETWORK)

    first = views.of(READER)
    for number in range(8):
        views.of(Principal(f"nobody-{number}", Role.HOST))
    assert views.of(READER) is first
    for number in range(8, 12):
        views.of(Principal(f"nobody-{number}", Role.HOST))
    assert views.of(READER) is not first
