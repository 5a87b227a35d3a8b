"""A write that etcd does not answer is found out about: it is never made twice, and never taken for made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count

import msgspec
import pytest

from gateway.lookup.claims import Mode
from gateway.lookup.entries import Grant, Kind, Placement, Stored
from gateway.lookup.store import Conflict, Expect, Prefix, StoreUnavailable
from gateway.lookup.stores.etcd import EtcdStore
from policies.model import Translation
from policies.services import Etcd
from tests.gateway.lookup.entries import CA4, CA6, KEY4, KEY6, at, claim, listed, revision_of, told
from tests.interop.etcd import COMMANDS, Single, opened
from tests.interop.etcd_proxy import Fate, Proxy

pytestmark = pytest.mark.interop

numbers = count()


@pytest.fixture(scope="module")
def single(require_tools: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    require_tools(*COMMANDS)
    with Single(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


class Way:
    """Two stores of the same entries: one behind the proxy, one with a way of its own."""

    def __init__(self, proxy: Proxy, ours: EtcdStore, other: EtcdStore, before: int) -> None:
        self.proxy, self.ours, self.other, self.before = proxy, ours, other, before

    async def history(self) -> list[tuple[str, int]]:
        """What has become of the key: the host, and the epoch."""
        changes = await told(self.other, self.before, await revision_of(self.other))
        return [(getattr(change.value, "host", ""), change.epoch) for change in changes if change.key == KEY4]


def rewritten(host: str) -> Placement:
    return msgspec.structs.replace(at(host), translation=Translation.REWRITE)


def is_held(grant: Stored) -> bool:
    return isinstance(grant.value, Grant) and grant.value.returned_at is None


@asynccontextmanager
async def way(single: Single) -> AsyncIterator[Way]:
    direct = Etcd((single.endpoint,), prefix=f"/unanswered-{next(numbers)}/")
    async with (
        asyncio.timeout(20),
        Proxy(single.endpoint).serve() as proxy,
        opened(msgspec.structs.replace(direct, endpoints=(proxy.endpoint,))) as ours,
        opened(direct) as other,
    ):
        yield Way(proxy, ours, other, await revision_of(other))


@pytest.mark.parametrize("fate", Fate)
def test_unanswered_write_is_made_once_and_acknowledged(single: Single, fate: Fate) -> None:
    async def main() -> None:
        async with way(single) as each:
            each.proxy.fates += [fate, fate]
            stored = await each.ours.put(KEY4, at("hv1"), Expect.ABSENT)

            assert not each.proxy.fates
            assert await each.other.get(KEY4) == stored
            assert await each.history() == [("hv1", 1)]

    asyncio.run(main())


@pytest.mark.parametrize("fate", Fate)
def test_unanswered_claim_is_made_once_and_whole(single: Single, fate: Fate) -> None:
    async def main() -> None:
        async with way(single) as each:
            await each.ours.claim(claim("hv1", Mode.REGISTER, addresses=(CA4, CA6)))
            each.proxy.fates.append(fate)
            records = await each.ours.claim(claim("hv2"))

            assert records == [await each.other.get(KEY4), await each.other.get(KEY6)]
            assert await each.history() == [("hv1", 1), ("hv2", 2)]

    asyncio.run(main())


@pytest.mark.parametrize("fate", Fate)
def test_unanswered_write_takes_and_gives_back_its_addresses_once(single: Single, fate: Fate) -> None:
    async def main() -> None:
        async with way(single) as each:
            await each.ours.put(KEY4, rewritten("hv1"), Expect.ABSENT)
            each.proxy.fates.append(fate)
            moved = await each.ours.put(KEY4, rewritten("hv2"), Expect.ANY)

            grants = await listed(each.other, Prefix(Kind.LEASE))
            assert [(entry.epoch, is_held(entry)) for entry in grants] == [(2, False), (1, True)]
            assert {entry.revision for entry in grants} == {moved.revision}
            assert await each.history() == [("hv1", 1), ("hv2", 2)]

    asyncio.run(main())


def test_unanswered_write_that_was_overwritten_meanwhile_is_acknowledged(single: Single) -> None:
    async def main() -> None:
        async with way(single) as each:
            each.proxy.fates.append(Fate.UNANSWERED)
            each.proxy.proceed.clear()
            writing = asyncio.ensure_future(each.ours.put(KEY4, at("hv1"), Expect.ABSENT))
            await each.proxy.unanswered.wait()
            made = await each.other.get(KEY4)
            await each.other.put(KEY4, at("hv2"), 1)
            await each.other.put(KEY4, at("hv3"), 2)
            each.proxy.proceed.set()

            assert await writing == made
            assert await each.history() == [("hv1", 1), ("hv2", 2), ("hv3", 3)]

    asyncio.run(main())


def test_write_that_was_lost_while_another_was_made_conflicts(single: Single) -> None:
    async def main() -> None:
        async with way(single) as each:
            each.proxy.fates.append(Fate.LOST)
            each.proxy.proceed.clear()
            writing = asyncio.ensure_future(each.ours.put(KEY4, at("hv1"), Expect.ABSENT))
            await each.proxy.unanswered.wait()
            other = await each.other.put(KEY4, at("hv2"), Expect.ABSENT)
            each.proxy.proceed.set()

            with pytest.raises(Conflict) as conflict:
                await writing
            assert conflict.value.current == other
            assert await each.history() == [("hv2", 1)]

    asyncio.run(main())


def test_write_whose_traces_are_compacted_is_not_acknowledged(single: Single) -> None:
    async def main() -> None:
        async with way(single) as each:
            each.proxy.fates.append(Fate.UNANSWERED)
            each.proxy.proceed.clear()
            writing = asyncio.ensure_future(each.ours.put(KEY4, at("hv1"), Expect.ABSENT))
            await each.proxy.unanswered.wait()
            overwritten = await each.other.put(KEY4, at("hv2"), 1)
            await each.other.compact(overwritten.revision)
            each.proxy.proceed.set()

            with pytest.raises(StoreUnavailable, match="whether it was made"):
                await writing

    asyncio.run(main())
