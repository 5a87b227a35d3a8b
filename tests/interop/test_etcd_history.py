"""A watch tells one history whole, or says that it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.lookup.entries import Progress, Reset, Stored
from gateway.lookup.follow import closing, follow
from gateway.lookup.store import Compacted, Expect, StoreUnavailable
from gateway.lookup.stores import etcd_gateway
from policies.services import Etcd
from tests.gateway.lookup.entries import KEY4, KEY6, at, events_of, told
from tests.interop.etcd import COMMANDS, Cluster, Single, opened
from tests.interop.etcd_storm import Storm

pytestmark = pytest.mark.interop


@pytest.fixture
def single(require_tools: Callable[..., None], tmp_path: Path) -> Iterator[Single]:
    require_tools(*COMMANDS)
    with Single(tmp_path) as etcd:
        yield etcd


@pytest.mark.netns
def test_compaction_does_no_harm_to_watchers_that_keep_up(require_tools: Callable[..., None]) -> None:
    require_tools(*COMMANDS)
    with Cluster() as cluster, Storm(cluster) as storm:
        for _ in range(10):
            storm.go_on(20)
            revision = storm.acknowledged[-1].revision
            storm.caught_up(revision)
            cluster.members[0].namespace.run("etcdctl", "compact", "--physical", str(revision))


def test_watcher_that_was_away_during_a_compaction_has_to_list_again(single: Single) -> None:
    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store, opened(Etcd((single.endpoint,))) as other:
            stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            async with asyncio.timeout(20), events_of(store, stored.revision) as events:
                assert isinstance(await anext(events), Progress)
                single.stop()
                single.start()
                await other.put(KEY4, at("hv2"), Expect.ANY)
                last = await other.put(KEY4, at("hv3"), Expect.ANY)
                await other.compact(last.revision)
                with pytest.raises(Compacted, match="is gone"):
                    await _skip(events)

    asyncio.run(main())


async def _skip(events: AsyncGenerator[Stored | Progress]) -> None:
    async for _ in events:
        continue


@pytest.mark.parametrize("later", [0, 5], ids=["behind", "overtaken"])
def test_restored_backup_has_to_be_listed_again_however_far_it_is(single: Single, later: int) -> None:
    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store:
            stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            backup = single.backup()
            async with asyncio.timeout(30), events_of(store, stored.revision) as events:
                lost = [await store.put(KEY4, at(host), Expect.ANY) for host in ("hv2", "hv3")]
                found: list[Stored] = []
                while len(found) < 2:
                    event = await anext(events)
                    found += [event] if isinstance(event, Stored) else []
                assert found == lost

                single.restore(backup)
                async with opened(Etcd((single.endpoint,))) as other:
                    for number in range(later):
                        await other.put(KEY6, at(f"hv{number + 1}"), Expect.ANY)
                with pytest.raises(Compacted, match="another history"):
                    await _skip(events)
            assert await store.get(KEY4) == stored

    asyncio.run(main())


@pytest.mark.parametrize("later", [0, 5], ids=["behind", "overtaken"])
def test_backup_restored_during_a_long_outage_is_listed_again(
    single: Single, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every replica gets there: by the watch that notices, or by the listing before it."""
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 0.2)

    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store:
            stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            backup = single.backup()
            lost = await store.put(KEY4, at("hv2"), Expect.ANY)
            assert await told(store, stored.revision, lost.revision) == [lost]
            single.stop()
            with pytest.raises(StoreUnavailable):
                await told(store, lost.revision, lost.revision)
            single.restore(backup)
            for number in range(later):
                await store.put(KEY6, at(f"hv{number + 1}"), Expect.ANY)

            async with asyncio.timeout(20), closing(follow(store, lost.revision)) as events:
                first = [await anext(events) for _ in range(2)]
            assert isinstance(first[0], Reset)
            assert first[1] == stored

    asyncio.run(main())


def test_revision_that_is_yet_to_come_is_of_another_history(single: Single) -> None:
    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store:
            with pytest.raises(Compacted, match="another history"):
                async with events_of(store, 1_000_000) as events:
                    await anext(events)

    asyncio.run(main())


def test_watch_survives_a_change_longer_than_any_buffer(single: Single) -> None:
    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store:
            moves = tuple(float(number) for number in range(70_000))  # 700 kB on the way
            async with asyncio.timeout(20), events_of(store, 1) as events:
                assert isinstance(await anext(events), Progress)
                value = msgspec.structs.replace(at("hv1"), moves=moves)
                stored = await store.put(KEY4, value, Expect.ABSENT)
                assert await anext(events) == stored

    asyncio.run(main())


def test_store_that_is_closed_ends_its_watches_in_words(single: Single) -> None:
    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store:
            async with asyncio.timeout(20), events_of(store, 1) as events:
                assert isinstance(await anext(events), Progress)
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0)
                await store.close()
                with pytest.raises(StoreUnavailable, match="closed"):
                    await waiting
            with pytest.raises(StoreUnavailable, match="closed"):
                await store.get(KEY4)

    asyncio.run(main())


def test_watch_says_when_nobody_answers_any_more(single: Single, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 0.3)

    async def main() -> None:
        async with opened(Etcd((single.endpoint,))) as store, events_of(store, 1) as events:
            assert isinstance(await anext(events), Progress)
            single.stop()
            with pytest.raises(StoreUnavailable, match=r"etcd does not answer; http://127\.0\.0\.1:\d+: "):
                await anext(events)

    asyncio.run(main())
