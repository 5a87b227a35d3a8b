"""The network in the store: no step on the way to another one leaves a node with something unsound."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from itertools import chain

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.entries import Key, Kind, NamedKey, Placement, RecordKey, Stored, Value
from gateway.lookup.follow import entries
from gateway.lookup.network import (
    NotTakenBack,
    Step,
    apply,
    assemble,
    entries_of,
    network_of,
    phases,
    take_back,
    without,
)
from gateway.lookup.network import stored as stored_network
from gateway.lookup.store import Expect, Expected, Prefix, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import MacAddress
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    CustomerRoute,
    Endpoint,
    IkeIdentity,
    Network,
    NextHop,
    ProviderGateway,
    ProviderHost,
    Site,
    SiteHop,
    SubnetHop,
    Tenant,
)
from policies.tables import Tables
from tests.gateway.lookup.networks import VSIDS, ca, pa, static, subnet

ANYWHERE = ip_network("0.0.0.0/0")


def site(name: str, gateway: str) -> Site:
    return Site(name, gateway, (ip_network("172.16.0.0/16"),), pa(99), IkeIdentity("here", name))


def dynamic(owner: str) -> Placement:
    """A record of a VM of a tenant, whose name stands for its host's here."""
    return Placement(MacAddress(b"\x02\0\0\0\0\x09"), pa(1), owner)


async def stored(store: MemoryStore) -> list[Stored]:
    return [entry async for entry in entries(store, *map(Prefix, Kind))]


async def write(store: MemoryStore, step: Step) -> None:
    if step.value is None:
        await store.delete(step.key, step.expected)
    else:
        await store.put(step.key, step.value, step.expected)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Up to three tenants, who share out three virtual subnets, each time differently."""
    gateways = draw(st.sets(st.sampled_from(["edge-1", "edge-2"]), min_size=1))
    names = sorted(draw(st.sets(st.sampled_from(["red", "blue", "green"]))))
    owners = {vsid: draw(st.sampled_from([*names, None])) for vsid in VSIDS}
    hosts = draw(st.sets(st.sampled_from(["hv1", "hv2"])))
    tenants = []
    for name in names:
        vsids = [vsid for vsid, owner in owners.items() if owner == name]
        sites = (site("seattle", draw(st.sampled_from(sorted(gateways)))),) if draw(st.booleans()) else ()
        hops: list[NextHop] = [SubnetHop(f"net-{vsid}", vsid) for vsid in vsids]
        hops += [SiteHop(each.name) for each in sites]
        routes = [CustomerRoute(ANYWHERE, hop) for hop in hops[:1]]
        rules = (
            (AccessRule("in", Action.ALLOW, destination=Endpoint(subnet=f"net-{vsids[0]}")),) if vsids else ()
        )
        tenants.append(
            Tenant(
                name=name,
                gateways=tuple(sorted(draw(st.sets(st.sampled_from(sorted(gateways)))))),
                subnets=tuple(subnet(vsid) for vsid in vsids),
                records=tuple(static(vsid, 7, name) for vsid in vsids if draw(st.booleans())),
                routes=tuple(routes),
                sites=sites,
                access=rules,
            )
        )
    return Network(
        hosts=tuple(ProviderHost(name, (pa(int(name[-1])),), tuple(names)) for name in sorted(hosts)),
        gateways=tuple(ProviderGateway(name, (pa(100 + int(name[-1])),)) for name in sorted(gateways)),
        tenants=tuple(tenants),
    )


async def check_sound(store: MemoryStore) -> None:
    """Whatever is stored compiles, and nobody's virtual subnet holds a record of another's VM."""
    found = await stored(store)
    network = assemble(entry.value for entry in found if entry.value is not None)
    Tables.compile(network)
    owners = {each.vsid: tenant.name for tenant in network.tenants for each in tenant.subnets}
    assert len(owners) == sum(len(tenant.subnets) for tenant in network.tenants)
    for entry in found:
        if isinstance(entry.key, RecordKey) and isinstance(entry.value, Placement):
            assert owners.get(entry.key.vsid, entry.value.host) == entry.value.host


@given(networks(), networks(), st.data())
def test_every_step_of_the_way_compiles_and_an_attempt_cut_short_is_finished_by_the_next(
    before: Network, after: Network, data: st.DataObject
) -> None:
    async def main() -> None:
        store = MemoryStore()
        await apply(store, before)
        for tenant in before.tenants:
            for each in tenant.subnets:
                await store.put(RecordKey(each.vsid, ca(each.vsid, 9)), dynamic(tenant.name), Expect.ANY)
        kept = {(tenant.name, each.vsid) for tenant in before.tenants for each in tenant.subnets} & {
            (tenant.name, each.vsid) for tenant in after.tenants for each in tenant.subnets
        }

        steps = list(chain(*phases(after, await stored(store), now=0.0)))
        for step in steps[: data.draw(st.integers(0, len(steps)))]:
            await write(store, step)
            await check_sound(store)
        for step in chain(*phases(after, await stored(store), now=0.0)):
            await write(store, step)
            await check_sound(store)

        assert await apply(store, after) == []
        wanted: dict[Key, Value] = dict(entries_of(after))
        for name, vsid in kept:
            wanted[RecordKey(vsid, ca(vsid, 9))] = dynamic(name)
        assert {entry.key: entry.value for entry in await stored(store)} == wanted

    asyncio.run(main())


@given(networks(), st.data())
def test_any_part_of_a_network_compiles(network: Network, data: st.DataObject) -> None:
    values = list(entries_of(network).values())
    Tables.compile(assemble(data.draw(st.lists(st.sampled_from(values), unique_by=id)) if values else ()))


@given(networks())
def test_a_network_put_together_again_is_the_same_without_its_static_records(network: Network) -> None:
    tenants = sorted(network.tenants, key=lambda tenant: tenant.name)
    bare = tuple(msgspec.structs.replace(tenant, records=()) for tenant in tenants)
    whole = assemble(entries_of(network).values())
    assert set(whole.tenants) == set(bare) if not bare else whole.tenants == bare
    assert whole.gateways == network.gateways
    assert {host.name for host in whole.hosts} == {host.name for host in network.hosts}


def test_what_refers_to_nothing_is_left_out_but_an_access_rule_stays() -> None:
    rule = AccessRule("web", Action.ALLOW, source=Endpoint(subnet="gone"))
    firewall = CustomerRoute(ip_network("10.9.0.0/16"), AddressHop(ca(VSIDS[0], 5)))
    tenant = Tenant(
        "red",
        ("edge-1", "edge-9"),
        (subnet(VSIDS[0]),),
        routes=(
            CustomerRoute(ANYWHERE, SiteHop("nowhere")),
            CustomerRoute(ip_network("10.8.0.0/16"), SubnetHop("gone", VSIDS[2])),
            firewall,
        ),
        access=(rule,),
    )
    host = ProviderHost("hv1", (pa(1),), ("red", "green"))
    network = assemble([tenant, host, ProviderGateway("edge-1", (pa(100),))])
    assert network.tenants[0].gateways == ("edge-1",)
    assert network.tenants[0].routes == (firewall,)
    assert network.tenants[0].access == (rule,)
    assert network.hosts[0].tenants == ("red",)


def test_a_virtual_subnet_that_two_tenants_have_is_nobodys() -> None:
    tenants = [
        Tenant(name, (), (subnet(VSIDS[0]), subnet(vsid)))
        for name, vsid in (("a", VSIDS[1]), ("b", VSIDS[2]))
    ]
    network = assemble(tenants)
    assert [[each.vsid for each in tenant.subnets] for tenant in network.tenants] == [[5002], [5003]]


def test_a_dry_run_writes_nothing_and_says_what_would_be_written() -> None:
    async def main() -> None:
        store = MemoryStore()
        network = Network(gateways=(ProviderGateway("edge-1", (pa(100),)),))
        (step,) = await apply(store, network, dry_run=True)
        assert step == Step(NamedKey(Kind.GATEWAY, "edge-1"), network.gateways[0], Expect.ABSENT)
        assert await stored(store) == []

    asyncio.run(main())


class Contended(MemoryStore):
    """Somebody else writes the same key just before us, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def put(self, key: Key, value: Value, expected: Expected) -> Stored:
        if self.times and isinstance(value, ProviderGateway):
            self.times -= 1
            other = msgspec.structs.replace(value, provider_addresses=(pa(self.times % 200),))
            await super().put(key, other, Expect.ANY)
        return await super().put(key, value, expected)


def test_a_write_that_meets_another_is_worked_out_anew() -> None:
    async def main() -> None:
        store = Contended(3)
        network = Network(gateways=(ProviderGateway("edge-1", (pa(201),)),))
        await apply(store, network)
        (entry,) = await stored(store)
        assert entry.value == network.gateways[0]

    asyncio.run(main())


def test_who_is_always_overtaken_gives_up() -> None:
    async def main() -> None:
        with pytest.raises(StoreUnavailable):
            await apply(Contended(1000), Network(gateways=(ProviderGateway("edge-1", (pa(201),)),)))

    asyncio.run(main())


# --- back again


def named(*names: str) -> Network:
    """Tenants by name, each with a virtual subnet of its own and a static record."""
    host = ProviderHost("hv1", (pa(1),), names)
    return Network(
        hosts=(host,),
        tenants=tuple(
            Tenant(name, (), (subnet(vsid),), records=(static(vsid, 5, "hv1"),))
            for name, vsid in zip(names, VSIDS, strict=False)
        ),
    )


def test_what_entries_take_apart_is_put_together_again() -> None:
    network = named("blue", "red")

    assert network_of(entries_of(network)) == network


def test_change_taken_back_leaves_what_others_have_changed_since() -> None:
    before, after = named("blue"), named("blue", "red")
    theirs = msgspec.structs.replace(after.tenants[0], rdid="0c1d7e4a-0000-0000-0000-000000000001")
    current = msgspec.structs.replace(after, tenants=(theirs, after.tenants[1]))

    back, kept = without(current, before, after)

    assert back == msgspec.structs.replace(before, tenants=(theirs,))
    assert kept == []


def test_change_that_others_have_changed_on_is_left_and_named() -> None:
    before, after = named("blue"), named("blue", "red")
    theirs = msgspec.structs.replace(after.tenants[1], rdid="0c1d7e4a-0000-0000-0000-000000000001")
    current = msgspec.structs.replace(after, tenants=(after.tenants[0], theirs))

    back, kept = without(current, before, after)

    assert [str(key) for key in kept] == ["tenant red"]
    assert back.tenants[1].rdid == theirs.rdid


@given(st.data())
def test_taking_back_undoes_exactly_what_was_changed(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from(("blue", "green", "red")), unique=True, max_size=3)
    before, after = named(*data.draw(names)), named(*data.draw(names))

    back, kept = without(after, before, after)

    assert network_of(entries_of(back)) == network_of(entries_of(before))
    assert kept == []


def test_store_is_taken_back_also_where_somebody_writes_in_the_midst_of_it() -> None:
    before, after = named("blue"), named("blue", "red")

    rdid = "0c1d7e4a-0000-0000-0000-000000000001"

    class Disturbed(MemoryStore):
        """Somebody else changes Red just before it is deleted."""

        is_disturbed = False

        async def delete(self, key: Key, expected: Expected) -> Stored | None:
            if self.is_disturbed and key == NamedKey(Kind.TENANT, "red"):
                self.is_disturbed = False
                red = await self.get(key)
                assert red is not None
                assert isinstance(red.value, Tenant)
                await self.put(key, msgspec.structs.replace(red.value, rdid=rdid), red.epoch)
            return await super().delete(key, expected)

    async def test() -> None:
        store = Disturbed()
        await apply(store, before)
        await apply(store, after)
        store.is_disturbed = True
        kept = await take_back(store, before, after)
        left = await stored_network(store)
        assert [str(key) for key in kept] == ["tenant red"]
        assert [(tenant.name, tenant.rdid) for tenant in left.tenants] == [("blue", None), ("red", rdid)]

    asyncio.run(test())


def test_virtual_subnet_that_others_have_given_away_meanwhile_is_not_taken_back_to_two_owners() -> None:
    before, after = named("blue", "red"), named("blue")
    green = msgspec.structs.replace(before.tenants[1], name="green")
    theirs = msgspec.structs.replace(after, tenants=(*after.tenants, green))

    async def test() -> None:
        store = MemoryStore()
        await apply(store, theirs)
        with pytest.raises(NotTakenBack, match="the VSID"):
            await take_back(store, before, after)
        assert await stored_network(store) == theirs

    asyncio.run(test())
