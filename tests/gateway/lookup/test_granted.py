"""Whose each provider address of a pool is, found by the address and by whom it is for."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.entries import Grant, LeaseKey, Stored
from gateway.lookup.granted import Granted
from policies.addresses import CustomerAddress, ProviderAddress, Vsid

WEB, DB = Vsid(5001), Vsid(5002)
SITE = CustomerAddress.parse("172.16.0.9")
V6 = CustomerAddress.parse("fd00:9::9")


def pa(text: str) -> ProviderAddress:
    return ProviderAddress.parse(text)


def leased(text: str, revision: int = 1, vsid: Vsid = WEB, ca: CustomerAddress = SITE) -> Stored:
    return Stored(LeaseKey(pa(text)), Grant(vsid, ca, "edge-1", leased=True), 1, revision)


def returned(entry: Stored, at: float = 9.0) -> Stored:
    assert isinstance(entry.value, Grant)
    value = msgspec.structs.replace(entry.value, returned_at=at)
    return Stored(entry.key, value, entry.epoch + 1, entry.revision + 1)


def of_a_record(text: str, revision: int = 1, vsid: Vsid = WEB) -> Stored:
    return Stored(LeaseKey(pa(text)), Grant(vsid, SITE, "hv1"), 1, revision)


def gone(entry: Stored) -> Stored:
    return Stored(entry.key, None, entry.epoch + 1, entry.revision + 1)


def put(granted: Granted, *entries: Stored) -> None:
    for entry in entries:
        assert isinstance(entry.key, LeaseKey)
        granted.put(entry.key, entry)


def test_a_lease_is_found_by_its_address_and_by_whom_it_stands_for() -> None:
    granted, entry = Granted(), leased("192.0.2.65", 7)
    put(granted, entry)

    assert granted.grant(pa("192.0.2.65")) == entry.value
    assert granted.leases_of(WEB, SITE) == (entry.lease,)
    assert granted.leases_in(WEB) == [entry.lease]
    assert granted.leased_vsids() == [WEB]
    assert granted.leases_of(DB, SITE) == ()
    assert granted.grant(pa("192.0.2.66")) is None


def test_each_gateway_of_a_tenant_may_hold_one_for_a_customer_address() -> None:
    first = leased("192.0.2.65")
    second = Stored(LeaseKey(pa("192.0.2.129")), Grant(WEB, SITE, "edge-2", leased=True), 1, 2)
    granted = Granted()
    put(granted, first, second)

    assert granted.leases_of(WEB, SITE) == (first.lease, second.lease)
    put(granted, returned(first))
    assert granted.leases_of(WEB, SITE) == (second.lease,)
    assert (granted.held({WEB}, "edge-1"), granted.held({WEB}, "edge-2")) == (0, 1)


def test_what_is_returned_is_remembered_and_counts_no_more() -> None:
    granted, entry = Granted(), leased("192.0.2.65")
    put(granted, entry, returned(entry))

    grant = granted.grant(pa("192.0.2.65"))
    assert grant is not None
    assert (grant.ca, grant.returned_at) == (SITE, 9.0)
    assert len(granted) == 1
    assert (granted.leases_of(WEB, SITE), granted.leased_vsids(), granted.held({WEB}, "edge-1")) == (
        (),
        [],
        0,
    )


def test_what_a_record_has_is_no_lease() -> None:
    granted, entry = Granted(), of_a_record("198.51.100.130")
    put(granted, entry)

    assert granted.grant(pa("198.51.100.130")) == entry.value
    assert entry.lease is None
    assert (granted.leases_of(WEB, SITE), granted.held({WEB}, "hv1")) == ((), 0)


def test_those_of_a_pool_are_found_in_order_whenever_they_come_and_go() -> None:
    granted = Granted()
    put(granted, leased("192.0.2.66", ca=SITE), of_a_record("192.0.2.64"), leased("2001:db8::1:5", ca=V6))
    pool, v6 = ip_network("192.0.2.64/30"), ip_network("2001:db8::1:0/112")

    assert [str(address) for address, _ in granted.within(pool)] == ["192.0.2.64", "192.0.2.66"]
    put(
        granted,
        leased("192.0.2.67"),
        leased("192.0.2.68"),
        leased("192.0.2.63"),
        gone(of_a_record("192.0.2.64")),
    )
    assert [str(address) for address, _ in granted.within(pool)] == ["192.0.2.66", "192.0.2.67"]
    assert [str(address) for address, _ in granted.within(v6)] == ["2001:db8::1:5"]
    assert list(granted.within(ip_network("203.0.113.0/24"))) == []


def test_a_change_is_told_where_it_is_of_a_lease_or_ends_one() -> None:
    granted, lease, held = Granted(), leased("192.0.2.65"), of_a_record("192.0.2.66")
    assert (granted.is_told(lease), granted.is_told(held)) == (True, False)
    put(granted, lease, held)

    assert granted.is_told(returned(lease))
    assert granted.is_told(of_a_record("192.0.2.65", 3))
    assert not granted.is_told(returned(held))
    put(granted, returned(lease))
    assert not granted.is_told(gone(lease))


def test_a_lease_is_lost_to_those_who_know_it_where_what_follows_is_in_another_virtual_subnet() -> None:
    granted, lease, held = Granted(), leased("192.0.2.65"), of_a_record("192.0.2.66")
    put(granted, lease, held)

    assert granted.loses(leased("192.0.2.65", 3, DB))
    assert granted.loses(returned(leased("192.0.2.65", 3, DB)))
    assert granted.loses(of_a_record("192.0.2.65", 3, DB))
    assert granted.loses(gone(lease))
    assert not granted.loses(returned(lease))
    assert not granted.loses(of_a_record("192.0.2.65", 3))
    assert not granted.loses(leased("192.0.2.66", 3, DB))
    assert not granted.loses(gone(held))


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.none()
        | st.builds(
            Grant,
            vsid=st.sampled_from([WEB, DB]),
            ca=st.sampled_from([SITE, V6]),
            node=st.sampled_from(["edge-1", "edge-2"]),
            returned_at=st.none() | st.just(5.0),
            leased=st.booleans(),
        ),
    ),
    max_size=40,
)


@given(CHANGES, st.integers(0, 40))
def test_every_index_says_what_the_entries_do(changes: list[tuple[int, Grant | None]], asked_at: int) -> None:
    granted, model = Granted(), dict[ProviderAddress, Stored]()
    pool = ip_network("192.0.2.0/30")
    for revision, (number, value) in enumerate(changes):
        if revision == asked_at:
            list(granted.within(pool))
        entry = Stored(LeaseKey(pa(f"192.0.2.{number}")), value, revision, revision)
        put(granted, entry)
        model.pop(pa(f"192.0.2.{number}"), None)
        if value is not None:
            model[pa(f"192.0.2.{number}")] = entry

    leases = [lease for entry in model.values() if (lease := entry.lease) is not None]
    for vsid in (WEB, DB):
        assert sorted(granted.leases_in(vsid), key=str) == sorted(
            (e for e in leases if e.vsid == vsid), key=str
        )
        for ca in (SITE, V6):
            expected = {lease for lease in leases if (lease.vsid, lease.ca) == (vsid, ca)}
            assert set(granted.leases_of(vsid, ca)) == expected
        for node in ("edge-1", "edge-2"):
            expected = {lease for lease in leases if (lease.vsid, lease.node) == (vsid, node)}
            assert granted.held({vsid}, node) == len(expected)
    assert granted.leased_vsids() == sorted({lease.vsid for lease in leases})
    assert dict(granted.within(pool)) == {
        address: entry.value for address, entry in model.items() if address.ip in pool
    }
    assert {entry.key: entry for entry in granted} == {entry.key: entry for entry in model.values()}
