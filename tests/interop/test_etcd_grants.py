"""Lookup nodes that grant provider addresses at once never grant one twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from gateway.lookup.entries import Grant, Kind, LeaseKey, Placement, RecordKey, Stored
from gateway.lookup.store import Expect, LookupStore, Prefix, Taken
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import Translation
from policies.services import Etcd
from tests.gateway.lookup.entries import MAC, WEB, listed, revision_of, told
from tests.interop.etcd import COMMANDS, Single, opened

pytestmark = pytest.mark.interop

NODES = 3
WRITERS = 12
WRITES = 30
POOL = [ProviderAddress(bytes((203, 0, 113, n))) for n in range(8)]


@pytest.fixture(scope="module")
def single(require_tools: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    require_tools(*COMMANDS)
    with Single(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


async def contend(store: LookupStore, writer: int) -> int:
    """Write one record with whichever address, or none, and lease addresses; return how often it was made."""
    rng = random.Random(writer)
    ca = CustomerAddress(bytes((10, 0, 7, writer)))
    key, made = RecordKey(WEB, ca), 0
    for _ in range(WRITES):
        pa = rng.choice(POOL)
        try:
            match rng.randrange(4):
                case 0:
                    await store.delete(key, Expect.ANY)
                case 1:
                    await store.put(LeaseKey(pa), Grant(WEB, ca, "edge-1", leased=True), Expect.ANY)
                    await store.put(LeaseKey(pa), Grant(WEB, ca, "edge-1", 0.0, leased=True), Expect.ANY)
                case _:
                    await store.put(key, Placement(MAC, pa, "hv1", Translation.REWRITE), Expect.ANY)
        except Taken:
            continue
        made += 1
    return made


def check(changes: list[Stored]) -> int:
    """Go through the history, revision by revision; return how often an address had a new holder."""
    records: dict[RecordKey, ProviderAddress] = {}
    holders: dict[ProviderAddress, RecordKey] = {}
    latest: dict[ProviderAddress, RecordKey] = {}
    handed_on = 0
    for number, change in enumerate(changes):
        key, value = change.key, change.value
        if isinstance(key, RecordKey):
            records.pop(key, None)
            if isinstance(value, Placement):
                records[key] = value.pa
        elif isinstance(key, LeaseKey) and isinstance(value, Grant):
            holder = RecordKey(value.vsid, value.ca)
            assert holders.get(key.pa, holder) == holder, f"{key.pa} has been taken from another"
            holders.pop(key.pa, None)
            if value.returned_at is None:
                holders[key.pa] = holder
                handed_on += latest.get(key.pa, holder) != holder
                latest[key.pa] = holder
        if number + 1 == len(changes) or changes[number + 1].revision != change.revision:
            assert {pa: key for key, pa in records.items()}.items() <= holders.items()
            assert len(set(records.values())) == len(records)
    return handed_on


def test_address_is_never_two_records_at_once_whichever_node_is_asked(single: Single) -> None:
    async def main() -> None:
        settings = Etcd((single.endpoint,), prefix="/grants/")
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            # Quarantines are over at once, so that addresses are handed on.
            clock = iter(range(0, 10**9, 1_000))
            nodes = [
                await stack.enter_async_context(opened(settings, lambda: float(next(clock))))
                for _ in range(NODES)
            ]
            before = await revision_of(nodes[0])
            made = await asyncio.gather(*(contend(nodes[n % NODES], n) for n in range(WRITERS)))
            history = await told(nodes[0], before, await revision_of(nodes[0]))
            handed_on = check(history)
            assert handed_on > WRITERS, (handed_on, made)
            records = await listed(nodes[1], Prefix(Kind.RECORD))
            assert records

    asyncio.run(main())
