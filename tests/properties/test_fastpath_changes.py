"""Whatever changes, in any order: after each change the program and the pipeline decide alike."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import hypothesis
import msgspec
import pytest
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.forwarding.directory import Delete, Put
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    CustomerRoute,
    FlowIdMode,
    Limits,
    LookupRecord,
    Network,
    Tenant,
)
from policies.tables import Tables
from tests.fuzz.mutation import INPUTS
from tests.properties.agreement import Agreement
from tests.properties.crossings import Gateway, cross
from tests.properties.machine import Machine, Processors
from tests.properties.test_fastpath import check, start, world_with_limits
from tests.properties.worlds import moved

FRAMES_AFTER_EACH = 6


class Story:
    """One gateway to which things happen."""

    def __init__(self, chance: random.Random, gateway: Gateway, machine: Machine, clock: MockClock) -> None:
        self.seen: Counter[str] = Counter()
        self._chance = chance
        self._gateway = gateway
        self._machine = machine
        self._clock = clock
        self._forwarder = gateway.forwarder
        self._agreement = Agreement(gateway.forwarder, machine)
        self._deleted: list[LookupRecord] = []
        self._network = gateway.world.network
        self._hosts = gateway.world.network.hosts

    def compare(self, after: str) -> None:
        """Throw frames at both."""
        self._gateway.now = trio.current_time()
        for number in range(FRAMES_AFTER_EACH):
            crossing = cross(self._chance, self._gateway)
            if crossing is not None:
                check(self._agreement, crossing, f"after {after}, frame {number}")

    def outcomes(self) -> Counter[str]:
        return self._agreement.seen + self.seen

    def _record(self) -> LookupRecord | None:
        records = list(self._forwarder.directory)
        return self._chance.choice(records) if records else None

    def _apply(self, *changes: Put | Delete) -> None:
        self._forwarder.apply(changes, trio.current_time())

    async def move(self) -> None:
        record = self._record()
        if record is not None:
            self._apply(Put(moved(self._chance, record, self._hosts)))

    async def move_all_of_a_vm(self) -> None:
        record = self._record()
        if record is not None:
            for each in self._forwarder.directory.find_by_mac(record.vsid, record.mac):
                self._apply(Put(moved(self._chance, each, self._hosts)))

    async def change(self) -> None:
        """Give a record something else, right or wrong."""
        record, other = self._record(), self._record()
        if record is None or other is None:
            return
        changes = (
            {"mac": other.mac},
            {"mac": MacAddress(self._chance.randbytes(6))},
            {"vsid": other.vsid},
            {"host": other.host},
            {"pa": other.pa},
            {"pa": ProviderAddress(b"\xc0\0\2\xee")},
            {"pa": self._chance.choice(self._forwarder.node.provider_addresses)},
            {"translation": other.translation, "pa": other.pa, "ca": other.ca, "vsid": other.vsid},
        )
        self._apply(Put(msgspec.structs.replace(record, **self._chance.choice(changes))))

    async def delete(self) -> None:
        record = self._record()
        if record is not None:
            self._deleted.append(record)
            self._apply(Delete(record.vsid, record.ca))

    async def come_back(self) -> None:
        if self._deleted:
            self._apply(Put(self._deleted.pop(self._chance.randrange(len(self._deleted)))))

    async def lose_a_hop(self) -> None:
        hops = sorted(self._machine.hops)
        if hops:
            self._machine.reach(self._chance.choice(hops), None)

    async def find_a_hop(self) -> None:
        members = sorted(self._forwarder.tables.members)
        if members:
            address = ProviderAddress(self._chance.choice(members))
            if address not in self._forwarder.node.provider_addresses:
                self._machine.reach(address, b"\2\xcc" + self._chance.randbytes(4))

    async def hear_of_a_path(self) -> None:
        """What a router of the underlay says that a path carries."""
        address, vsid = self._chance.choice(sorted(self._forwarder.tables.members)), 0
        vsid = self._chance.choice([*self._forwarder.tables.subnets, vsid])
        mtu = self._chance.choice((600, 1280, 1299, 1400))
        if self._forwarder.path_mtu_reported(address, vsid, mtu, trio.current_time()):
            self._machine.fast.path_changed(address)
            self.seen["a path carries less"] += 1

    async def wait(self) -> None:
        self._clock.jump(self._chance.choice((0.5, 1.5, 700.0)))
        await trio.testing.wait_all_tasks_blocked()
        # So that those who look once a second have looked.
        self._clock.jump(1.1)
        await trio.testing.wait_all_tasks_blocked()

    async def look_at(self) -> None:
        """Have somebody look at some tenants' packets, or at all, or at none any more."""
        names = sorted(self._forwarder.tables.domains)
        nobody: frozenset[str] = frozenset()
        self._machine.fast.observe(self._chance.choice((nobody, nobody, frozenset(names[:1]), None)))

    async def reload(self) -> None:
        """Change the network anywhere."""
        network = self._chance.choice(_EDITS)(self._chance, self._network)
        await self._machine.replace_tables(Tables.compile(network))
        self._network = network
        for address in self._machine.hops.keys() - self._forwarder.tables.members:
            raise AssertionError(f"{address} is nobody's, and reached")


def _of_a_tenant(
    change: Callable[[random.Random, Tenant, Network], Tenant],
) -> Callable[[random.Random, Network], Network]:
    def edit(chance: random.Random, network: Network) -> Network:
        if not network.tenants:
            return network
        at = chance.randrange(len(network.tenants))
        tenants = list(network.tenants)
        tenants[at] = change(chance, tenants[at], network)
        return msgspec.structs.replace(network, tenants=tuple(tenants))

    return edit


def _other_rules(chance: random.Random, tenant: Tenant, network: Network) -> Tenant:
    rules = [*tenant.access, AccessRule("all", chance.choice((Action.ALLOW, Action.DENY)))]
    chance.shuffle(rules)
    return msgspec.structs.replace(tenant, access=tuple(rules[: chance.randint(0, 3)]))


def _too_many_rules(chance: random.Random, tenant: Tenant, network: Network) -> Tenant:
    rules = tuple(AccessRule(f"rule {number}", Action.ALLOW) for number in range(chance.choice((64, 65, 90))))
    return msgspec.structs.replace(tenant, access=rules)


def _other_limits(chance: random.Random, tenant: Tenant, network: Network) -> Tenant:
    limits = chance.choice((None, Limits(8, 1_000), Limits(8, 50_000)))
    return msgspec.structs.replace(tenant, limits=limits)


def _other_routes(chance: random.Random, tenant: Tenant, network: Network) -> Tenant:
    subnet = chance.choice(tenant.subnets) if tenant.subnets else None
    if subnet is None or chance.random() < 0.4:
        return msgspec.structs.replace(tenant, routes=tenant.routes[1:])
    prefix = chance.choice(subnet.prefixes)
    hop = AddressHop(CustomerAddress(prefix[5].packed))
    inside = type(prefix)((prefix[8], prefix.max_prefixlen - 2), strict=False)
    wide = type(prefix)("0.0.0.0/0" if prefix.version == 4 else "::/0")
    route = CustomerRoute(chance.choice((inside, wide)), hop)
    kept = tuple(each for each in tenant.routes if each.prefix != route.prefix)
    return msgspec.structs.replace(tenant, routes=(*kept, route))


def _other_gateways(chance: random.Random, tenant: Tenant, network: Network) -> Tenant:
    names = [gateway.name for gateway in network.gateways]
    chosen = tuple(chance.sample(names, chance.randint(1, len(names))))
    return msgspec.structs.replace(tenant, gateways=chosen)


def _without_a_subnet(chance: random.Random, tenant: Tenant, network: Network) -> Tenant:
    return msgspec.structs.replace(tenant, subnets=tenant.subnets[1:], access=())


def _subnets_changed_about(chance: random.Random, network: Network) -> Network:
    """Give a virtual subnet of one tenant's to another."""
    if len(network.tenants) < 2 or not network.tenants[0].subnets:
        return network
    first, second, *rest = chance.sample(network.tenants, len(network.tenants))
    if not first.subnets:
        return network
    given = msgspec.structs.replace(first.subnets[0], name=f"from {first.name} {first.subnets[0].vsid}")
    # No rule names what its tenant has not: the configuration's checks see to that.
    first = msgspec.structs.replace(first, subnets=first.subnets[1:], access=())
    second = msgspec.structs.replace(second, subnets=(*second.subnets, given))
    return msgspec.structs.replace(network, tenants=(first, second, *rest))


def _without_a_tenant(chance: random.Random, network: Network) -> Network:
    return msgspec.structs.replace(network, tenants=network.tenants[1:])


def _tenants_named_anew(chance: random.Random, network: Network) -> Network:
    """Have two tenants change their names: all that is theirs is the other's now."""
    if len(network.tenants) < 2:
        return network
    first, second, *rest = network.tenants
    names = first.name, second.name
    first = msgspec.structs.replace(first, name=names[1])
    second = msgspec.structs.replace(second, name=names[0])
    return msgspec.structs.replace(network, tenants=(first, second, *rest))


def _other_hosts(chance: random.Random, network: Network) -> Network:
    """Have a host hold other tenants, want another FlowID, or have other addresses."""
    if not network.hosts:
        return network
    at = chance.randrange(len(network.hosts))
    host = network.hosts[at]
    names = [tenant.name for tenant in network.tenants]
    changes = (
        {"tenants": tuple(chance.sample(names, chance.randint(0, len(names))))},
        {"flow_id": chance.choice(list(FlowIdMode))},
        {"provider_addresses": host.provider_addresses[:1]},
        {"provider_addresses": (ProviderAddress(b"\xc0\0\2" + bytes((40 + at,))),)},
    )
    hosts = list(network.hosts)
    hosts[at] = msgspec.structs.replace(host, **chance.choice(changes))
    if chance.random() < 0.2:
        del hosts[at]
    return msgspec.structs.replace(network, hosts=tuple(hosts))


_EDITS: tuple[Callable[[random.Random, Network], Network], ...] = (
    lambda _, network: network,
    _of_a_tenant(_other_rules),
    _of_a_tenant(_too_many_rules),
    _of_a_tenant(_other_limits),
    _of_a_tenant(_other_routes),
    _of_a_tenant(_other_gateways),
    _of_a_tenant(_without_a_subnet),
    _subnets_changed_about,
    _without_a_tenant,
    _tenants_named_anew,
    _other_hosts,
)

HAPPENINGS: dict[str, Callable[[Story], Awaitable[None]]] = {
    "a move": Story.move,
    "a move of a whole VM": Story.move_all_of_a_vm,
    "a change": Story.change,
    "a deletion": Story.delete,
    "a return": Story.come_back,
    "the loss of a hop": Story.lose_a_hop,
    "a hop": Story.find_a_hop,
    "a report of a path": Story.hear_of_a_path,
    "a while": Story.wait,
    "a look": Story.look_at,
    "a reload": Story.reload,
}


async def tell(
    processors: Processors, chance: random.Random, happenings: list[str], clock: MockClock
) -> Counter[str]:
    """Have things happen to a gateway, and compare after each."""
    gateway, machine = await start(chance, processors, world_with_limits)
    story = Story(chance, gateway, machine, clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.fast.reaching.watch_paths)
        story.compare("the start")
        for number, happening in enumerate(happenings):
            try:
                await HAPPENINGS[happening](story)
            except Exception as failure:
                failure.add_note(f"at {happening}, number {number}")
                raise
            story.seen[happening] += 1
            story.compare(f"{happening}, number {number}")
        nursery.cancel_scope.cancel()
    story.seen["instances that took over"] += machine.replaced
    return story.outcomes()


def _run(processors: Processors, chance: random.Random, happenings: list[str]) -> Counter[str]:
    clock = MockClock()
    return trio.run(tell, processors, chance, happenings, clock, clock=clock)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    chance=st.randoms(use_true_random=False),
    happenings=st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=4),
)
def test_both_decide_alike_after_each_change(
    processors: Processors, chance: random.Random, happenings: list[str]
) -> None:
    _run(processors, chance, happenings)


def long_stories(processors: Processors, seed: int, stories: int, length: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for number in range(stories):
        chance = random.Random(f"{seed} {number}")
        # So often reloaded, an instance runs out of numbers, and another takes over.
        happenings = chance.choices([*sorted(HAPPENINGS), *["a reload"] * 5], k=length)
        try:
            seen += _run(processors, chance, happenings)
        except Exception as failure:
            failure.add_note(f"story {seed} {number}")
            raise
    return seen


def test_both_decide_alike_through_long_stories(processors: Processors) -> None:
    seen = long_stories(processors, seed=7640, stories=5, length=60)

    assert HAPPENINGS.keys() <= seen.keys()
    assert seen["forwarded"] > 100
    assert seen["a path carries less"]
    assert seen["instances that took over"]


@pytest.mark.soak
def test_both_decide_alike_through_thousands_of_changes(processors: Processors) -> None:
    seen = long_stories(processors, seed=2893, stories=max(1, INPUTS // 10_000), length=200)

    assert HAPPENINGS.keys() <= seen.keys()
