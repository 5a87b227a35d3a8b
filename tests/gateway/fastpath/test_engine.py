"""The engine among real interfaces: changes that come upon each other, and interfaces that go."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
import trio

from gateway.fastpath import features, kernel, links
from gateway.fastpath.engine import FastPath
from gateway.fastpath.instance import Instance
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.links import Link
from gateway.fastpath.sizes import Sizes
from gateway.forwarding.directory import Put
from gateway.forwarding.pipeline import Forwarder
from gateway.lab.namespaces import Namespace
from policies.addresses import CustomerAddress
from policies.model import FastPathSettings, Tenant
from policies.tables import Tables
from tests.fastpath.oracle import Oracle
from tests.fastpath.scenes import vsid, world

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

WORLD = world()
EAST, WEST = "east", "west"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    namespace = Namespace("engine")
    try:
        for name in (EAST, WEST):
            namespace.ip(f"link add {name} type veth peer name {name}-far", f"link set {name} up")
        yield namespace
    finally:
        namespace.close()


def run(machine: Namespace, do: Callable[[FastPath, Forwarder], Awaitable[object]]) -> None:
    """Do something with a fast path that serves, and has been told the world."""

    async def serve() -> None:
        forwarder = Oracle(WORLD).forwarder
        fast = FastPath.open("engine", features.look((EAST, WEST)), FastPathSettings())
        async with trio.open_nursery() as nursery:
            await nursery.start(fast.serve, forwarder)
            await change(fast, forwarder, forwarder.tables)
            await do(fast, forwarder)
            nursery.cancel_scope.cancel()

    machine.call(trio.run, serve)


async def change(fast: FastPath, forwarder: Forwarder, tables: Tables) -> None:
    async with fast.change(tables, forwarder.node):
        forwarder.replace_tables(tables)


def with_tenants(*tenants: Tenant) -> Tables:
    return Tables.compile(msgspec.structs.replace(WORLD.network, tenants=tenants))


def program_of(fast: FastPath) -> int:
    """The id of the program whose tables are written."""
    return int.from_bytes(kernel.information(fast._instances[0].program, 8)[4:], "little")


def links_of(fast: FastPath) -> list[Link]:
    return [place.link for place in fast._links._places if place.link is not None]


def test_network_that_changes_while_there_is_made_room_is_carried_once_there_is(machine: Namespace) -> None:
    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                fast._crowded.set()
                while len(fast._instances) == 1:
                    await trio.lowlevel.checkpoint()
                red, blue, green = WORLD.network.tenants
                nursery.start_soon(change, fast, forwarder, with_tenants(red))
                while len(fast._instances) > 1 or fast._writing.locked():
                    await trio.lowlevel.checkpoint()
                assert fast._images.keys() == {"red"}
                await change(fast, forwarder, with_tenants(red, blue, green))
        assert fast.status().tenants == 2
        assert not fast._unwritten

    run(machine, do)


def test_no_interface_keeps_a_program_whose_tables_nobody_writes(
    machine: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        east, west = links_of(fast)
        replace = west.replace

        def refuse(program: int) -> None:
            monkeypatch.setattr(west, "replace", replace)
            raise BpfRefused(12, "replacing")

        monkeypatch.setattr(west, "replace", refuse)
        assert not await fast._replace()
        assert east.program() == west.program() == links.attached(east.ifindex) == program_of(fast)

    run(machine, do)


def test_interface_that_is_gone_keeps_the_others_from_nothing(machine: Namespace) -> None:
    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        machine.ip(f"link delete {WEST}")
        before = program_of(fast)
        assert await fast._replace()
        east = fast._links.indices[0]
        assert links.attached(east) == program_of(fast) != before
        fast._links.look(fast._links.present())
        assert [each.is_there for each in fast._links.attached] == [True, False]

    run(machine, do)


def test_interface_that_comes_back_while_there_is_made_room_has_the_larger_program(
    machine: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_here(work: Callable[..., object], *arguments: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    # A thread that trio keeps may be in another network namespace.
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)

    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        machine.ip(f"link delete {WEST}")
        fast._links.look(fast._links.present())
        machine.ip(
            f"link add {WEST} type veth peer name {WEST}-far",
            f"link set {WEST} up",
            f"link set {WEST}-far up",
        )
        before = program_of(fast)
        fast._crowded.set()
        while len(fast._instances) == 1:
            await trio.lowlevel.checkpoint()
        index = socket.if_nametoindex(WEST)
        assert await fast._come_back(WEST, index)
        assert links.attached(index) == program_of(fast) != before
        assert {link.program() for link in links_of(fast)} == {program_of(fast)}
        assert fast._instances[0].port_of(index) == 1

    run(machine, do)


def test_what_was_counted_of_a_virtual_subnet_stays_with_the_tenant_that_had_it(machine: Namespace) -> None:
    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        red, blue, green = WORLD.network.tenants
        web = vsid("red", "web")
        number = fast._instances[0]._subnets[web].number
        fast._instances[0]._memory["meters"].cast("Q")[4 * number] = 3
        had = forwarder.meters[web]
        (subnet,) = (each for each in red.subnets if each.vsid == web)
        less = tuple(each for each in red.subnets if each.vsid != web)
        moved = (
            msgspec.structs.replace(red, subnets=less, access=()),
            blue,
            msgspec.structs.replace(green, subnets=(subnet,)),
        )
        await change(fast, forwarder, with_tenants(*moved))
        fast.count()
        assert (had.sent_packets, forwarder.meters[web].sent_packets) == (3, 0)

    run(machine, do)


def test_records_that_come_in_masses_while_room_is_made_for_them_are_given_more(machine: Namespace) -> None:
    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        web = vsid("red", "web")
        known = next(each for each in WORLD.records if each.vsid == web and len(each.ca) == 16)
        load, sizes_seen = fast._load, list[Sizes]()

        def come() -> None:
            for number in range(34_000):
                ca = CustomerAddress(known.ca[:8] + (1 << 32 | number).to_bytes(8))
                forwarder.apply([Put(msgspec.structs.replace(known, ca=ca))], 0.0)

        def loading(sizes: Sizes) -> Instance:
            if not sizes_seen:
                trio.from_thread.run_sync(come)
            sizes_seen.append(sizes)
            return load(sizes)

        fast._load = loading
        async with fast._writing:
            assert await fast._replace()
        assert len(sizes_seen) == 2
        status = fast.status()
        assert status.records > 34_000
        assert status.without_place == 0

    run(machine, do)


def test_program_of_an_earlier_process_goes_where_no_other_can_take_its_place(machine: Namespace) -> None:
    async def do(fast: FastPath, forwarder: Forwarder) -> None:
        fast._is_ours = fast._is_written = False  # as after a start with what is pinned
        earlier = Instance.load(fast._instances[0].sizes, 1)
        fast._links.replace(earlier.program, earlier.program)

        def refuse(sizes: Sizes) -> Instance:
            raise BpfRefused(12, "loading")

        fast._load = refuse
        await change(fast, forwarder, forwarder.tables)
        assert {link.program() for link in links_of(fast)} == {program_of(fast)}
        assert not fast._flags()

    run(machine, do)
