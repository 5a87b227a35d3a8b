"""Who is told of the provider addresses that gateways lease, and of nobody else's."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.http.principals import Principal
from gateway.lookup.entries import Grant, LeaseKey, Placement, RecordKey, Stored
from gateway.lookup.forms import form
from gateway.lookup.http.watch import LINES_AT_ONCE
from gateway.lookup.network import apply
from gateway.lookup.store import Expect
from policies.addresses import Vsid
from policies.model import Translation
from tests.gateway.lookup.http.watched import Line, changed, gone, served
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    HV2,
    HV3,
    NETWORK,
    OPERATOR,
    READER,
    WEB,
    Serving,
    asking,
    ca,
    mac,
    pa,
    place,
    watching,
)


async def granted(node: Serving, address: str, vsid: Vsid = WEB, *, leased: bool = True) -> Stored:
    """Have an address granted, and wait until the node shows it."""
    grant = Grant(vsid, ca("172.16.0.9"), "edge-1" if leased else "hv1", leased=leased)
    return await _written(node, address, grant)


async def returned(node: Serving, entry: Stored) -> Stored:
    assert isinstance(entry.key, LeaseKey)
    assert isinstance(entry.value, Grant)
    return await _written(node, str(entry.key.pa), msgspec.structs.replace(entry.value, returned_at=9.0))


async def _written(node: Serving, address: str, grant: Grant) -> Stored:
    entry = await node.store.put(LeaseKey(pa(address)), grant, Expect.ANY)
    assert await node.replica.reached(entry.revision, 5)
    return entry


def leases(lines: list[Line]) -> list[tuple[str, str]]:
    """What lines say of leases: put or delete, and of which address."""
    return [(line["type"], line["value"]["pa"]) for line in lines if line.get("kind") == "lease"]


def test_a_lease_is_told_when_it_is_made_and_when_it_is_returned() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, HV1) as ask, watching(ask) as watch:
            await watch.until_progress()
            made = await granted(node, "192.0.2.65")
            value = {"pa": "192.0.2.65", "vsid": WEB, "ca": "172.16.0.9", "node": "edge-1"}
            assert await watch.until_progress() == [
                {"type": "put", "kind": "lease", "revision": made.revision, "value": value},
                {"type": "progress", "revision": made.revision},
            ]
            ended = await returned(node, made)
            assert (await watch.until_progress())[0] == {
                "type": "delete",
                "kind": "lease",
                "revision": ended.revision,
                "value": {"pa": "192.0.2.65"},
            }

    served(test)


@pytest.mark.parametrize(
    ("principal", "query", "expected"),
    [
        (OPERATOR, "", {"192.0.2.65", "192.0.2.66", "192.0.2.67"}),
        (GATEWAY, "", {"192.0.2.65", "192.0.2.66", "192.0.2.67"}),
        (HV1, "", {"192.0.2.65", "192.0.2.66"}),
        (HV1, "?only=used", {"192.0.2.65", "192.0.2.66"}),
        (HV2, "", {"192.0.2.65", "192.0.2.66", "192.0.2.67"}),
        (HV3, "", {"192.0.2.67"}),
        (READER, "", {"192.0.2.65", "192.0.2.66"}),
        (HV1, "?vsid=5002", {"192.0.2.66"}),
        (HV1, "?vsid=6001", set()),
        (OPERATOR, "?tenant=blue", {"192.0.2.67"}),
        (OPERATOR, "?kind=lease", {"192.0.2.65", "192.0.2.66", "192.0.2.67"}),
        (OPERATOR, "?kind=lease&tenant=red&vsid=5002", {"192.0.2.66"}),
        (OPERATOR, "?kind=record", set()),
        (OPERATOR, "?kind=gateway", set()),
    ],
)
def test_leases_are_told_to_those_who_see_and_ask_for_their_virtual_subnet(
    principal: Principal, query: str, expected: set[str]
) -> None:
    async def test(node: Serving) -> None:
        made = [
            await granted(node, "192.0.2.65"),
            await granted(node, "192.0.2.66", DB),
            await granted(node, "192.0.2.67", BLUE),
        ]
        await granted(node, "198.51.100.130", leased=False)
        async with asking(node, principal) as ask, watching(ask, query) as watch:
            first = leases(await watch.until_progress())
            assert sorted(first) == sorted(("put", address) for address in expected)
            for entry in made:
                await returned(node, entry)
            # What ends the watch's news is seen by everybody who sees one of the leases.
            later: list[tuple[str, str]] = []
            while len(later) < len(expected):
                later += leases(await watch.until_progress())
            assert sorted(later) == sorted(("delete", address) for address in expected)
            async with watching(ask, query) as anew:
                assert leases(await anew.until_progress()) == []

    served(test)


def test_what_records_have_is_told_to_nobody() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, OPERATOR) as ask, watching(ask) as watch:
            await watch.until_progress()
            entry = await granted(node, "198.51.100.130", leased=False)
            await returned(node, entry)
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            lines = await watch.until_progress()
            assert [line.get("kind") for line in lines] == ["record", None]

    served(test)


def test_an_address_that_comes_to_be_a_records_ends_the_lease_for_those_who_know_it() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, HV1) as ask, watching(ask) as watch:
            await granted(node, "192.0.2.65")
            await granted(node, "192.0.2.65", leased=False)
            found: list[tuple[str, str]] = []
            while len(found) < 2:
                found += leases(await watch.until_progress())
            assert found[-1] == ("delete", "192.0.2.65")

    served(test)


def test_watch_goes_on_among_leases_without_a_gap() -> None:
    async def test(node: Serving) -> None:
        first = await granted(node, "192.0.2.65")
        second = await granted(node, "192.0.2.66")
        third = await returned(node, first)
        async with asking(node, HV1) as ask, watching(ask, f"?from={first.revision}") as watch:
            lines = await watch.until_progress()
            assert [(line["type"], line["revision"]) for line in lines] == [
                ("put", second.revision),
                ("delete", third.revision),
                ("progress", third.revision),
            ]

    served(test)


def test_host_that_gains_a_tenant_is_told_its_leases_and_none_once_it_has_lost_it() -> None:
    async def test(node: Serving) -> None:
        await granted(node, "192.0.2.67", BLUE)
        async with asking(node, HV1) as ask, watching(ask) as watch:
            assert leases(await watch.until_progress()) == []
            await apply(node.store, changed(NETWORK, "hv1", "red", "blue"))
            lines = await watch.until_progress()
            assert lines[0]["type"] == "resync"
            assert leases(lines) == [("put", "192.0.2.67")]
            await apply(node.store, changed(NETWORK, "hv1", "red"))
            while (lines := await watch.until_progress())[0]["type"] != "resync":
                pass
            assert leases(lines) == []

    served(test)


def test_leases_of_a_tenant_that_goes_are_given_back_and_that_is_said() -> None:
    async def test(node: Serving) -> None:
        await granted(node, "192.0.2.65")
        await granted(node, "192.0.2.67", BLUE)
        hosts = tuple(msgspec.structs.replace(host, tenants=("red",)) for host in NETWORK.hosts)
        red = msgspec.structs.replace(NETWORK, hosts=hosts, tenants=NETWORK.tenants[:1])
        async with asking(node) as ask, watching(ask) as watch:
            await watch.until_progress()
            answer = await ask("PUT", "/v1/network", form(red))
            assert answer.status == 200
            assert {"action": "delete", "kind": "lease", "pa": "192.0.2.67"} in answer.body["changes"]
            ended: list[tuple[str, str]] = []
            while not ended:
                ended += leases(await watch.until_progress())
            assert ended == [("delete", "192.0.2.67")]

    served(test)


def test_many_leases_are_told_with_those_that_change_meanwhile() -> None:
    async def test(node: Serving) -> None:
        count = 2 * LINES_AT_ONCE + 1
        made = [await granted(node, f"10.{number >> 8}.{number & 255}.9") for number in range(count)]
        async with asking(node, GATEWAY) as ask, watching(ask) as watch:
            assert (await watch.line())["type"] == "resync"
            changing = asyncio.gather(*(returned(node, entry) for entry in made[::100]))
            known = set[str]()
            for what, address in leases(await watch.until_progress()):
                (known.add if what == "put" else known.discard)(address)
            await changing
            while len(known) > count - len(made[::100]):
                for what, address in leases(await watch.until_progress()):
                    assert what == "delete"
                    known.discard(address)
            assert known == {str(lease.pa) for lease in node.replica.granted.leases_in(WEB)}

    served(test)


async def rewritten(node: Serving, number: int, host: str, *, encapsulated: bool = False) -> None:
    """Write the record of a VM that is rewritten, or is so no longer, and wait until the node shows it."""
    way = Translation.ENCAP if encapsulated else Translation.REWRITE
    address = pa("198.51.100.12") if encapsulated else pa(f"198.51.100.{100 + number}")
    key = RecordKey(WEB, ca(f"10.0.1.{number}"))
    entry = await node.store.put(key, Placement(mac(number), address, host, way), Expect.ANY)
    assert await node.replica.reached(entry.revision, 5)


def of_records(lines: list[Line]) -> list[tuple[str, str]]:
    """What lines say of records: put or delete, and of which address."""
    return [(line["type"], line["value"]["ca"]) for line in lines if line.get("kind") == "record"]


def test_a_host_that_keeps_few_records_is_told_of_all_that_are_rewritten_and_of_their_end() -> None:
    async def test(node: Serving) -> None:
        await rewritten(node, 6, "hv2")
        await place(node, WEB, "10.0.1.7", 7, "hv2")
        async with asking(node, HV1) as ask, watching(ask, "?only=used") as watch:
            assert of_records(await watch.until_progress()) == [("put", "10.0.1.6")]
            await rewritten(node, 8, "hv2")
            assert of_records(await watch.until_progress()) == [("put", "10.0.1.8")]
            await place(node, WEB, "10.0.1.7", 7, "hv2")
            await gone(node, "10.0.1.8")
            assert of_records(await watch.until_progress()) == [("delete", "10.0.1.8")]
            await place(node, WEB, "10.0.1.8", 8, "hv2")
            await rewritten(node, 6, "hv2", encapsulated=True)
            assert of_records(await watch.until_progress()) == [("put", "10.0.1.6")]
            await gone(node, "10.0.1.6")
            assert of_records(await watch.until_progress()) == [("delete", "10.0.1.6")]

    served(test)
