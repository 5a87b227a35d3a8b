from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.lookup.entries import RecordKey
from gateway.lookup.followers import ELSEWHERE_SECONDS, MOST_TAUGHT, Followers
from tests.gateway.lookup.serving import GATEWAY, HV1, HV2, HV3, WEB, ca

KEY = RecordKey(WEB, ca("10.0.1.5"))
OTHER = RecordKey(WEB, ca("10.0.1.6"))


class Interest:
    """A watch that covers what it is given."""

    def __init__(self, *keys: RecordKey) -> None:
        self.keys = keys
        self.taught: list[RecordKey] = []

    def covers(self, key: RecordKey) -> bool:
        return key in self.keys

    def teach(self, key: RecordKey) -> None:
        self.taught.append(key)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def connected(clock: Callable[[], float] = Clock()) -> Followers:  # noqa: B008 - each test moves its own
    followers = Followers(clock)
    for principal in (HV1, HV2, GATEWAY):
        followers.connect(principal, Interest(KEY))
    return followers


def test_move_is_learned_when_everybody_who_sees_it_has_acknowledged() -> None:
    async def main() -> None:
        followers = connected()
        learning = followers.learn(7, [KEY], None)
        followers.acknowledge(HV1, 6, is_local=False)
        assert await learning.wait(["hv1", "hv2", "edge-1"], 0) == {
            "hv1": False,
            "hv2": False,
            "edge-1": False,
        }
        followers.acknowledge(HV1, 7, is_local=False)
        followers.acknowledge(HV2, 9, is_local=False)
        assert await learning.wait(["hv1", "hv2", "edge-1"], 0) == {"hv1": True, "hv2": True, "edge-1": False}

    asyncio.run(main())


def test_wait_ends_with_the_last_of_those_named_and_not_later() -> None:
    async def main() -> None:
        followers = connected()
        learning = followers.learn(7, [KEY], None)
        waiting = asyncio.create_task(learning.wait(["hv1", "hv2"], 60))
        await asyncio.sleep(0)
        followers.acknowledge(HV1, 7, is_local=False)
        await asyncio.sleep(0)
        assert not waiting.done()
        followers.acknowledge(HV2, 7, is_local=False)
        assert await waiting == {"hv1": True, "hv2": True}

    asyncio.run(main())


def test_one_who_goes_is_not_waited_for_and_has_not_learned() -> None:
    async def main() -> None:
        followers = Followers()
        watch = Interest(KEY)
        followers.connect(HV1, watch)
        learning = followers.learn(7, [KEY], None)
        waiting = asyncio.create_task(learning.wait(["hv1"], 60))
        await asyncio.sleep(0)
        followers.disconnect(HV1, watch)
        assert await waiting == {"hv1": False}

    asyncio.run(main())


def test_one_who_is_not_connected_is_not_waited_for() -> None:
    async def main() -> None:
        learning = connected().learn(7, [KEY], None)
        assert await learning.wait(["hv9"], 60) == {"hv9": False}

    asyncio.run(main())


def test_one_who_has_learned_and_then_goes_has_learned() -> None:
    async def main() -> None:
        followers = Followers()
        first = Interest(KEY)
        followers.connect(HV1, first)
        followers.connect(HV2, Interest(KEY))
        learning = followers.learn(7, [KEY], None)
        followers.acknowledge(HV1, 7, is_local=False)
        followers.disconnect(HV1, first)
        followers.acknowledge(HV2, 7, is_local=False)
        assert await learning.wait(["hv1", "hv2"], 60) == {"hv1": True, "hv2": True}

    asyncio.run(main())


def test_one_who_watches_elsewhere_is_waited_for_where_it_is_named() -> None:
    async def main() -> None:
        followers = Followers()
        for principal in (HV1, HV2):
            followers.acknowledge(principal, 6, is_local=False)
        learning = followers.learn(7, [KEY], None, ["hv1"])
        waiting = asyncio.create_task(learning.wait(["hv1"], 60))
        await asyncio.sleep(0)
        followers.acknowledge(HV1, 6, is_local=False)
        followers.acknowledge(HV2, 7, is_local=False)
        await asyncio.sleep(0)
        assert not waiting.done()
        followers.acknowledge(HV1, 8, is_local=False)
        assert await waiting == {"hv1": True}

    asyncio.run(main())


def test_one_who_watches_elsewhere_and_was_quicker_has_learned() -> None:
    async def main() -> None:
        followers = Followers()
        followers.acknowledge(HV1, 7, is_local=False)
        assert await followers.learn(7, [KEY], None, ["hv1"]).wait(["hv1"], 60) == {"hv1": True}

    asyncio.run(main())


def test_one_who_comes_here_from_elsewhere_while_it_is_waited_for_can_still_learn() -> None:
    async def main() -> None:
        followers = Followers()
        followers.acknowledge(HV1, 6, is_local=False)
        learning = followers.learn(7, [KEY], None, ["hv1"])
        followers.connect(HV1, Interest(KEY))
        assert [(node.name, node.revision) for node in followers.nodes()] == [("hv1", 6)]
        followers.acknowledge(HV1, 7, is_local=False)
        assert await learning.wait(["hv1"], 60) == {"hv1": True}

    asyncio.run(main())


def test_one_elsewhere_who_is_not_heard_of_for_a_minute_is_not_waited_for() -> None:
    async def main() -> None:
        clock = Clock()
        followers = Followers(clock)
        followers.acknowledge(HV1, 7, is_local=False)
        clock.now += ELSEWHERE_SECONDS - 1
        followers.acknowledge(HV2, 7, is_local=False)
        clock.now += 2
        learning = followers.learn(7, [KEY], None, ["hv1", "hv2"])
        assert await learning.wait(["hv1", "hv2"], 60) == {"hv1": False, "hv2": True}
        learning = followers.learn(8, [KEY], None, ["hv1"])
        assert await learning.wait(["hv1"], 60) == {"hv1": False}

    asyncio.run(main())


def test_those_elsewhere_are_no_part_of_how_long_a_move_took() -> None:
    clock = Clock()
    followers = connected(clock)
    followers.acknowledge(HV3, 6, is_local=False)
    learning = followers.learn(7, [KEY], clock.now, ["hv3"])
    clock.now += 0.010
    for principal in (HV1, HV2, GATEWAY):
        followers.acknowledge(principal, 7, is_local=False)
    assert followers.convergence().moves == 1
    clock.now += 1
    followers.acknowledge(HV3, 7, is_local=False)
    assert followers.convergence().moves == 1
    assert [node.name for node in followers.nodes()] == ["edge-1", "hv1", "hv2"]
    assert not learning.elsewhere


def test_one_whose_watch_does_not_cover_a_record_has_nothing_to_learn() -> None:
    async def main() -> None:
        followers = Followers()
        followers.connect(HV1, Interest(OTHER))
        assert await followers.learn(7, [KEY], None).wait(["hv1"], 60) == {"hv1": True}

    asyncio.run(main())


def test_acknowledgement_without_a_watch_counts_in_this_process_only() -> None:
    followers = Followers()
    followers.acknowledge(HV1, 5, is_local=False)
    assert followers.nodes() == []
    followers.acknowledge(GATEWAY, 5, is_local=True)
    assert [(node.name, node.revision) for node in followers.nodes()] == [("edge-1", 5)]


def test_acknowledgement_never_goes_back() -> None:
    followers = connected()
    followers.acknowledge(HV1, 9, is_local=False)
    followers.acknowledge(HV1, 4, is_local=False)
    assert {node.name: node.revision for node in followers.nodes()}["hv1"] == 9


def test_node_is_behind_from_when_it_is_told_until_it_acknowledges() -> None:
    clock = Clock()
    followers = connected(clock)
    followers.told("hv1", 7)
    clock.now += 3
    assert {node.name: node.behind for node in followers.nodes()} == {"hv1": 3, "hv2": 0, "edge-1": 0}
    followers.acknowledge(HV1, 7, is_local=False)
    assert {node.behind for node in followers.nodes()} == {0}


def test_node_with_several_watches_is_one_until_the_last_has_ended() -> None:
    followers = Followers()
    first, second = Interest(), Interest()
    followers.connect(HV1, first)
    followers.connect(HV1, second)
    followers.disconnect(HV1, first)
    assert [node.name for node in followers.nodes()] == ["hv1"]
    followers.disconnect(HV1, second)
    followers.disconnect(HV1, second)
    assert followers.nodes() == []


def test_convergence_is_from_the_claim_to_the_last_acknowledgement() -> None:
    clock = Clock()
    followers = connected(clock)
    for revision in range(1, 101):
        followers.learn(revision, [KEY], clock.now)
        clock.now += 0.010
        followers.acknowledge(HV1, revision, is_local=False)
        clock.now += 0.010 if revision < 100 else 0.5
        followers.acknowledge(HV2, revision, is_local=False)
        followers.acknowledge(GATEWAY, revision, is_local=False)

    found = followers.convergence()
    assert found.moves == 100
    assert found.p50_ms is not None
    assert found.p99_ms is not None
    assert abs(found.p50_ms - 20) < 0.001
    assert 20 <= found.p99_ms < 30


def test_what_a_host_is_taught_is_told_on_its_watches_and_forgotten_when_it_says_so() -> None:
    followers = Followers()
    watch = Interest()
    followers.connect(HV1, watch)
    followers.teach("hv1", KEY)
    assert watch.taught == [KEY]
    assert set(followers.taught("hv1")) == {KEY}
    followers.forget("hv1", OTHER)
    followers.forget("hv1", KEY)
    assert watch.taught == [KEY, KEY]
    assert set(followers.taught("hv1")) == set()


def test_what_was_taught_first_goes_first_when_there_is_too_much() -> None:
    followers = Followers()
    keys = [RecordKey(WEB, ca(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")) for n in range(MOST_TAUGHT + 1)]
    for key in keys:
        followers.teach("hv1", key)
    assert len(followers.taught("hv1")) == MOST_TAUGHT
    assert keys[0] not in followers.taught("hv1")
