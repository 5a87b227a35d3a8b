"""What the engine has the program know, and what it does where there is no room: in ordinary memory."""

from __future__ import annotations

import errno
import functools
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gateway.fastpath import kernel
from gateway.fastpath.engine import FastPath
from gateway.fastpath.features import Feature, Features, Interface
from gateway.fastpath.hops import NextHop
from gateway.fastpath.instance import Instance
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.layout import CARRIES, INTERFACE, IS_CARRIED, TEACHES, TENANT, VSIDS
from gateway.fastpath.peers import owners_of
from gateway.fastpath.places import Place
from gateway.fastpath.sizes import Sizes
from gateway.fastpath.status import Attached
from gateway.forwarding.directory import Delete, Put
from gateway.forwarding.pipeline import Forwarder
from policies.addresses import Vsid
from policies.model import FastPathMode, Limits, Network
from policies.tables import Tables
from tests.fastpath.oracle import Oracle
from tests.fastpath.scenes import WORLD, pa, record, tenant, vsid, world
from tests.gateway.fastpath.ordinary import PROGRAM, Loader

SIZES = Sizes(
    ipv4_records=64,
    ipv4_blocks=4,
    ipv6_records=64,
    subnets=32,
    tenants=16,
    peers=64,
    rules=64,
    routes=128,
)
FOUND = Features((), (Interface("eth1", 7, 1600, b"\x02\xee\0\0\0\1"),), Feature("pins", ""))


class LinksOfNobody:
    """The program as if it were attached; `program` is the one that is."""

    attached = (Attached("eth1", FastPathMode.GENERIC),)
    indices = (7,)
    pinned = False

    def __init__(self, *, are_taken_over: bool = False) -> None:
        self.are_taken_over = are_taken_over
        self.program = PROGRAM

    def replace(self, program: int, before: int) -> None:
        self.program = program


class Edge:
    """A gateway of the cases' network, and its fast path."""

    def __init__(self, loader: Loader, links: LinksOfNobody | None = None, sizes: Sizes = SIZES) -> None:
        self.loader = loader
        self.links = links or LinksOfNobody()
        self.forwarder: Forwarder = Oracle(WORLD).forwarder
        instance = Instance.load(sizes, 1)
        self.fast = FastPath(instance, self.links, FOUND, lambda sizes: Instance.load(sizes, 2))  # type: ignore[arg-type]
        self.fast.follow(self.forwarder)

    async def adopt(self, network: Network | None = None) -> None:
        tables = self.forwarder.tables if network is None else Tables.compile(network)
        async with self.fast.change(tables, self.forwarder.node):
            self.forwarder.replace_tables(tables)

    @property
    def flags(self) -> int:
        return self.loader.made[-1].maps["config"].memory().cast("I")[0]

    @property
    def carried(self) -> int:
        """How many tenants' packets the last program decides."""
        tenants = self.loader.made[-1].maps["tenants"].memory()
        return sum(words[0] & IS_CARRIED for words in TENANT.iter_unpack(tenants))


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    async def run_here(work: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    loader = Loader()
    monkeypatch.setattr(kernel, "load", loader)
    # The clock would not wait for a thread.
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    return loader


def in_trio(test: Callable[[Loader], Awaitable[None]]) -> Callable[[Loader], None]:
    @functools.wraps(test)
    def run(loader: Loader) -> None:
        trio.run(test, loader, clock=MockClock(autojump_threshold=0))

    return run


@in_trio
async def test_nothing_is_carried_until_a_network_is_adopted(loader: Loader) -> None:
    edge = Edge(loader)
    assert (edge.flags, edge.carried) == (0, 0)

    await edge.adopt()

    status = edge.fast.status()
    assert (edge.flags, edge.carried) == (CARRIES, 2)
    assert (status.tenants, status.left_to_python) == (2, {"green": "this gateway is none of its own"})
    assert status.records > 0


@in_trio
async def test_record_that_changes_is_taken_over_at_once(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()
    before = edge.fast.status().records

    edge.forwarder.apply([Put(record("web", 77, "hv1"))], 0)
    assert edge.fast.status().records == before + 1
    edge.forwarder.apply([Put(record("web", 77, "hv3"))], 0)  # which may hold none of Red's
    assert edge.fast.status().records == before
    edge.forwarder.apply([Put(record("web", 77, "hv2"))], 0)
    edge.forwarder.apply([Delete(record("web", 77, "hv2").vsid, record("web", 77, "hv2").ca)], 0)
    assert edge.fast.status().records == before


@in_trio
async def test_tenant_whose_tables_change_is_left_to_python_before_they_do(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()

    plan = edge.fast.plan(Tables.compile(world(tenant(broadcast=True)).network), edge.forwarder.node)
    assert plan.changed == ()
    other = msgspec.structs.replace(tenant(), gateways=("edge-2",))
    plan = edge.fast.plan(Tables.compile(world(other).network), edge.forwarder.node)
    assert (plan.changed, plan.gone) == (("red",), ())
    async with edge.fast.change(plan.tables, edge.forwarder.node):
        assert edge.carried == 1
        edge.forwarder.replace_tables(plan.tables)
    assert edge.fast.status().left_to_python.keys() == {"red", "green"}


@in_trio
async def test_virtual_subnet_that_is_new_is_left_to_python_and_not_dropped_before_it_is_written(
    loader: Loader,
) -> None:
    edge = Edge(loader)
    await edge.adopt()
    new = Vsid(7999)
    subnet = msgspec.structs.replace(
        tenant().subnets[0], name="new", vsid=new, prefixes=(), gateway_addresses=()
    )
    red = msgspec.structs.replace(tenant(), subnets=(*tenant().subnets, subnet))
    places = edge.fast._instances[0].places
    async with edge.fast.change(Tables.compile(world(red).network), edge.forwarder.node):
        assert places.find(VSIDS, new, 0) == Place(0, 0)
        edge.forwarder.replace_tables(Tables.compile(world(red).network))
    assert places.find(VSIDS, new, 0) not in {None, Place(0, 0)}


@in_trio
async def test_tenant_that_is_looked_at_is_left_to_python_meanwhile(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()

    edge.fast.observe({"red"})
    assert edge.carried == 1
    edge.fast.observe(None)
    assert edge.carried == 0
    edge.fast.observe(())
    assert edge.carried == 2


@in_trio
async def test_program_teaches_once_somebody_listens(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()
    edge.fast.teach()

    assert edge.flags == CARRIES | TEACHES


@in_trio
async def test_program_of_an_earlier_process_is_replaced_before_anything_is_carried(loader: Loader) -> None:
    edge = Edge(loader, LinksOfNobody(are_taken_over=True))

    await edge.adopt()

    assert edge.links.program == PROGRAM + 1
    assert not loader.made[0].is_open
    assert (edge.flags, edge.carried) == (CARRIES, 2)


@in_trio
async def test_network_that_has_no_room_gets_a_larger_instance(loader: Loader) -> None:
    edge = Edge(loader, sizes=msgspec.structs.replace(SIZES, tenants=3))

    await edge.adopt()

    assert edge.links.program == PROGRAM + 1
    assert edge.fast.status().tenants == 2


@in_trio
async def test_room_that_is_refused_is_asked_for_again_and_no_reload_waits_for_it(loader: Loader) -> None:
    edge = Edge(loader, sizes=msgspec.structs.replace(SIZES, tenants=3))
    loader.refusal = BpfRefused(errno.ENOMEM, "making a map")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(edge.fast._grow)
        await edge.adopt()
        await trio.sleep(1)
        began = trio.current_time()
        await edge.adopt(world(tenant(limits=Limits(1_000_000, 10_000))).network)
        assert trio.current_time() == began
        assert edge.links.program == PROGRAM

        loader.refusal = None
        await trio.sleep(60)
        assert edge.links.program > PROGRAM
        assert (edge.flags, edge.carried) == (CARRIES, 2)
        nursery.cancel_scope.cancel()


@in_trio
async def test_host_that_there_is_no_room_for_is_left_to_python_and_not_taken_for_a_stranger(
    loader: Loader,
) -> None:
    without_hv4 = msgspec.structs.replace(WORLD.network, hosts=WORLD.network.hosts[:-1])
    peers = len(owners_of(Tables.compile(without_hv4)))
    edge = Edge(loader, sizes=msgspec.structs.replace(SIZES, peers=peers + 1))
    await edge.adopt(without_hv4)
    assert edge.flags == CARRIES
    loader.refusal = BpfRefused(errno.ENOMEM, "making a map")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(edge.fast._grow)
        await edge.adopt(WORLD.network)
        assert edge.flags == 0

        loader.refusal = None
        await trio.sleep(61)
        assert (edge.flags, edge.carried) == (CARRIES, 2)
        nursery.cancel_scope.cancel()


@in_trio
async def test_instance_that_is_not_finished_is_given_up_with_whoever_waited_for_it(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()
    with trio.CancelScope() as scope:

        def load(sizes: Sizes) -> Instance:
            scope.cancel()
            return Instance.load(sizes, 2)

        edge.fast._load = load
        await edge.fast._replace()

    await edge.adopt(world(tenant(limits=Limits(1_000_000, 10_000))).network)
    assert [made.is_open for made in loader.made] == [True, False]


@in_trio
async def test_address_that_is_somebodys_again_has_no_next_hop_of_before(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()
    edge.fast.reaching.reached(pa("hv4"), NextHop(7, b"\x02\xee\0\0\0\1", b"\x02\xaa\0\0\0\1"))
    hosts = WORLD.network.hosts
    await edge.adopt(
        msgspec.structs.replace(WORLD.network, hosts=[each for each in hosts if each.name != "hv4"])
    )

    await edge.adopt(WORLD.network)
    number = edge.fast._instances[0].peers.find(pa("hv4"))
    assert number is not None
    assert not loader.made[0].maps["peers"].memory().cast("Q")[number] >> 32


@in_trio
async def test_hop_by_another_mac_of_ours_is_told_with_it(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()
    hops = loader.made[0].maps["hops"].memory()

    edge.fast.reaching.reached(pa("hv1"), NextHop(7, b"\x02\xee\0\0\0\2", b"\x02\xaa\0\0\0\1"))
    assert b"\x02\xaa\0\0\0\1\x02\xee\0\0\0\2" in bytes(hops)
    config = loader.made[0].maps["config"].memory()
    assert b"\x02\xee\0\0\0\2" in bytes(config)


@in_trio
async def test_hops_by_an_interface_that_the_program_is_off_are_left_to_python_until_it_is_back(
    loader: Loader,
) -> None:
    edge = Edge(loader)
    await edge.adopt()
    reaching, instance = edge.fast.reaching, edge.fast._instances[0]
    peers, number = loader.made[0].maps["peers"].memory().cast("Q"), instance.peers.find(pa("hv1"))
    assert number is not None
    reaching.reached(pa("hv1"), NextHop(7, b"\x02\xee\0\0\0\1", b"\x02\xaa\0\0\0\1"))
    assert peers[number] >> 32

    reaching.attached(())
    assert not peers[number] >> 32
    reaching.attached((7,))
    assert peers[number] >> 32

    reaching.attached(())
    reaching.moved("eth1", 9)
    reaching.came_back(Interface("eth1", 9, 1600, b"\x02\xee\0\0\0\2"))
    reaching.reached(pa("hv1"), NextHop(9, b"\x02\xee\0\0\0\2", b"\x02\xaa\0\0\0\1"))
    assert not peers[number] >> 32
    reaching.attached((9,))
    assert peers[number] >> 32
    assert (instance.port_of(7), instance.port_of(9)) == (None, 0)
    config = bytes(loader.made[0].maps["config"].memory())
    assert INTERFACE.pack(9, b"\x02\xee\0\0\0\2") in config
    assert b"\x02\xee\0\0\0\1" not in config


@in_trio
async def test_nothing_is_carried_while_there_is_no_room_for_a_virtual_subnet_that_is_new(
    loader: Loader,
) -> None:
    edge = Edge(loader)
    await edge.adopt(msgspec.structs.replace(WORLD.network, tenants=WORLD.network.tenants[:2]))
    places = edge.fast._instances[0].places
    put = places.put
    places.put = lambda *_: False  # type: ignore[method-assign]

    async with edge.fast.change(Tables.compile(WORLD.network), edge.forwarder.node):
        assert edge.flags == 0
        places.put = put  # type: ignore[method-assign]
        edge.forwarder.replace_tables(Tables.compile(WORLD.network))
    assert edge.flags == CARRIES
    assert places.find(VSIDS, vsid("green", "web"), 0) is not None


@in_trio
async def test_tenant_that_is_named_anew_is_nobodys_at_no_moment(loader: Loader) -> None:
    edge = Edge(loader)
    await edge.adopt()
    instance, web = edge.fast._instances[0], vsid("red", "web")
    carry, found = instance.carry, list[Place | None]()

    def look_and_carry(tenant: str, *, is_carried: bool = True) -> None:
        found.append(instance.places.find(VSIDS, web, 0))
        carry(tenant, is_carried=is_carried)

    instance.carry = look_and_carry  # type: ignore[method-assign]
    before = instance.places.find(VSIDS, web, 0)
    await edge.adopt(named_anew(WORLD.network, "red", "crimson"))

    assert found
    assert set(found) == {before}
    assert instance.places.find(VSIDS, web, 0) not in (before, None)
    assert not instance.knows("red")


def named_anew(network: Network, name: str, new: str) -> Network:
    replace = msgspec.structs.replace
    return replace(
        network,
        tenants=tuple(replace(each, name=new) if each.name == name else each for each in network.tenants),
        hosts=tuple(
            replace(each, tenants=tuple(new if tenant == name else tenant for tenant in each.tenants))
            for each in network.hosts
        ),
    )
