"""Leases and rewritten static records, as the network in the store comes to be another one."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import msgspec
import pytest

from gateway.lookup import forms
from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Placement, RecordKey
from gateway.lookup.follow import entries, latest_revision
from gateway.lookup.network import apply, take_back
from gateway.lookup.network import stored as stored_network
from gateway.lookup.store import Expect, Prefix, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import Vsid
from policies.config import parse
from policies.model import LookupRecord, Network, ProviderHost, Tenant, Translation
from tests.gateway.lookup.networks import VSIDS, ca, pa, static, subnet
from tests.policies.whole import REWRITE


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        pytest.param({"a": VSIDS[:2]}, [1, 2], id="nothing changes"),
        pytest.param({"a": VSIDS[:2], "b": VSIDS[2:]}, [1, 2], id="another tenant comes"),
        pytest.param({"a": VSIDS[1:2]}, [2], id="the virtual subnet goes"),
        pytest.param({"a": VSIDS[1:2], "b": VSIDS[:1]}, [2], id="another tenant gets it"),
        pytest.param({}, [], id="the tenant goes"),
    ],
)
def test_leases_of_a_virtual_subnet_that_goes_are_given_back_before_anybody_else_has_it(
    after: dict[str, list[Vsid]], kept: list[int]
) -> None:
    def network(tenants: dict[str, list[Vsid]]) -> Network:
        return Network(
            tenants=tuple(Tenant(name, (), tuple(map(subnet, of))) for name, of in tenants.items())
        )

    async def main() -> None:
        store = MemoryStore()
        await apply(store, network({"a": VSIDS[:2]}))
        for number, vsid in ((1, VSIDS[0]), (2, VSIDS[1])):
            lease = Grant(vsid, ca(vsid, 9), "edge-1", leased=True)
            await store.put(LeaseKey(pa(number)), lease, Expect.ANY)
        of_a_record = await store.put(LeaseKey(pa(3)), Grant(VSIDS[0], ca(VSIDS[0], 9), "hv1"), Expect.ANY)
        begun = await latest_revision(store)
        await apply(store, network(after))

        found = [entry async for entry in entries(store, Prefix(Kind.LEASE))]
        assert [entry.key for entry in found if entry.lease is not None] == [LeaseKey(pa(n)) for n in kept]
        assert found[2] == of_a_record
        returned = [entry.revision for entry in found if entry.revision > begun and entry != of_a_record]
        given = await store.get(NamedKey(Kind.TENANT, "b"))
        if returned and given is not None:
            assert max(returned) < given.revision

    asyncio.run(main())


def test_pools_leases_and_how_vms_are_carried_are_stored_as_they_are_written() -> None:
    async def main() -> None:
        network = parse(REWRITE).network
        store = MemoryStore()
        await apply(store, network)
        found = await stored_network(store)
        assert {each.name: each for each in found.hosts} == {each.name: each for each in network.hosts}
        assert {each.name: each for each in found.gateways} == {each.name: each for each in network.gateways}
        assert [(each.leases, each.subnets) for each in found.tenants] == [
            (each.leases, each.subnets) for each in network.tenants
        ]
        assert {each.ca: each for each in found.tenants[0].records} == {
            each.ca: each for each in network.tenants[0].records
        }
        assert forms.read(Network, msgspec.json.decode(msgspec.json.encode(forms.form(network)))) == network

    asyncio.run(main())


def rewritten(number: int, own: int) -> LookupRecord:
    return msgspec.structs.replace(
        static(VSIDS[0], number, "hv1"), pa=pa(own), translation=Translation.REWRITE
    )


def with_records(*records: LookupRecord) -> Network:
    red = Tenant("red", (), (subnet(VSIDS[0]),), records)
    return Network(hosts=(ProviderHost("hv1", (pa(1),), ("red",)),), tenants=(red,))


def test_a_static_record_waits_for_a_provider_address_that_was_anothers_a_moment_ago() -> None:
    async def main() -> None:
        clock = [1000.0]
        store = MemoryStore(lambda: clock[0])
        await apply(store, with_records(rewritten(5, 130)))
        clock[0] += 1
        wanted = with_records(rewritten(6, 130), rewritten(7, 131))
        with pytest.raises(StoreUnavailable) as raised:
            await apply(store, wanted)
        assert str(raised.value) == (
            "198.51.100.130 is taken by another, or was within 300 s: record 5001/10.0.1.6 cannot have it yet"
        )
        clock[0] += 300
        await apply(store, wanted)
        (red,) = (await stored_network(store)).tenants
        assert {str(record.ca): record.pa for record in red.records} == {
            "10.0.1.6": pa(130),
            "10.0.1.7": pa(131),
        }

    asyncio.run(main())


def test_a_static_record_that_names_the_provider_address_of_a_vm_is_refused_with_the_holder() -> None:
    async def main() -> None:
        store = MemoryStore(lambda: 1000.0)
        await apply(store, with_records(rewritten(5, 130)))
        with pytest.raises(StoreUnavailable) as raised:
            await apply(store, with_records(rewritten(5, 130), rewritten(6, 130)))
        assert str(raised.value) == (
            "198.51.100.130 is taken by record 5001/10.0.1.5, so that record 5001/10.0.1.6 cannot have it; "
            "give one of the two another"
        )

    asyncio.run(main())


def test_rollback_leaves_a_static_record_whose_provider_address_is_anothers_by_now() -> None:
    async def main() -> None:
        clock = [1000.0]
        store = MemoryStore(lambda: clock[0])
        pools = (ip_network("198.51.100.128/25"),)
        before, after = (
            msgspec.structs.replace(each, hosts=(msgspec.structs.replace(each.hosts[0], pools=pools),))
            for each in (with_records(rewritten(5, 130)), with_records(rewritten(5, 131), rewritten(6, 132)))
        )
        await apply(store, before)
        await apply(store, after)
        clock[0] += 300
        other = rewritten(7, 130)
        theirs = Placement(other.mac, other.pa, other.host, other.translation)
        await store.put(RecordKey(other.vsid, other.ca), theirs, Expect.ABSENT)

        assert await take_back(store, before, after) == [RecordKey(VSIDS[0], rewritten(5, 130).ca)]

        (red,) = (await stored_network(store)).tenants
        assert [(str(record.ca), record.pa) for record in red.records] == [("10.0.1.5", pa(131))]

    asyncio.run(main())
