from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.http.principals import Principal
from gateway.lookup.figures import figures
from gateway.lookup.followers import Followers
from gateway.lookup.store import StoreUnavailable
from gateway.lookup.writes import Writes
from policies.addresses import CustomerAddress, Vsid
from policies.services import Role
from tests.gateway.lookup.pooled import House, pooled, with_house
from tests.gateway.lookup.serving import GATEWAY, HV2, WEB, mac
from tests.gateway.lookup.test_authority import KEY, PA2, Clock, authority


class Watch:
    """A watch of everything."""

    def covers(self, _key: object) -> bool:
        return True

    def teach(self, _key: object) -> None:
        pass


def test_claim_that_moves_a_record_is_counted_by_its_mode_and_until_all_have_learned() -> None:
    async def main() -> None:
        clock = Clock()
        async with authority(clock) as house:
            await house.place(KEY, 1, "hv1")
            house.authority.followers.connect(GATEWAY, Watch())
            answer = await house.authority.claim(HV2, vsid=WEB, mac=mac(1), pa=PA2)
            before = figures(house.replica, house.authority, ["a watch"]).followers
            assert before is not None
            assert sum(before.convergence.counts) == 0

            clock.now += 0.02
            house.authority.acknowledge(GATEWAY, answer.records[0].revision, is_local=False)
            after = figures(house.replica, house.authority, ["a watch"]).followers

        assert after is not None
        assert after.moves == {"register": 0, "announce": 1, "orchestrate": 0}
        assert after.nodes == {"host": 0, "gateway": 1}
        assert after.watches == 1
        assert sum(after.convergence.counts) == 1
        assert after.convergence.seconds == pytest.approx(0.02)
        assert sum(after.writes.counts) == 1

    asyncio.run(main())


def test_records_are_counted_by_tenant_also_where_there_are_none() -> None:
    async def main() -> None:
        async with authority() as house:
            await house.place(KEY, 1, "hv1")
            found = figures(house.replica)

        assert found.records == {"red": 1, "blue": 0}
        assert found.is_synced
        assert found.stale_seconds == 0
        assert found.followers is None

    asyncio.run(main())


def test_leases_that_count_and_addresses_of_pools_are_told_by_who_serves() -> None:
    async def test(house: House) -> None:
        for text in ("172.16.0.9", "172.16.0.10", "10.0.1.1"):
            vsid, address = Vsid(5001), CustomerAddress.parse(text)
            await house.authority.lease(GATEWAY, vsid, address)
        found = figures(house.replica, house.authority)

        assert found.leases == {
            (name, edge): 0 for name in ("red", "blue") for edge in ("edge-1", "edge-2")
        } | {("red", "edge-1"): 2}
        assert found.lease_limits == {"red": 7, "blue": 7}
        (usage,) = (pool for pool in found.pools if "edge-1" in pool.nodes and pool.prefix.version == 4)
        assert (usage.held, usage.free) == (3, usage.size - 3)
        followed = figures(house.replica)
        assert (followed.leases, followed.lease_limits, followed.pools) == ({}, {}, [])

    with_house(test, pooled(leases=7))


def test_alerts_are_counted_by_kind_and_say_whose_record_is_frozen(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> dict[str, int]:
        async with authority() as house:
            await house.place(KEY, 1, "hv1", frozen=True)
            with pytest.raises(Exception, match="frozen"):
                await house.authority.claim(HV2, vsid=WEB, mac=mac(1), pa=PA2)
            followers = figures(house.replica, house.authority).followers
            assert followers is not None
            return followers.alerts

    with caplog.at_level(logging.WARNING):
        alerts = asyncio.run(main())

    assert alerts == {"refused": 0, "unknown": 0, "frozen": 1, "no-lease": 0}
    [line] = caplog.records
    assert (line.__dict__["event"], line.__dict__["cause"], line.__dict__["tenant"]) == (
        "alert",
        "frozen",
        "red",
    )


def test_write_that_finds_the_store_away_is_a_failed_one_and_takes_its_time() -> None:
    clock = Clock()
    writes = Writes(clock)

    def write(error: Exception) -> None:
        with writes.timed():
            clock.now += 1.5
            raise error

    with pytest.raises(StoreUnavailable):
        write(StoreUnavailable("away"))
    with pytest.raises(ValueError):
        write(ValueError())

    assert writes.failed == 1
    assert sum(writes.seconds.counts) == 2
    assert writes.seconds.seconds == 3


def test_who_follows_and_who_has_gone_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    followers, first, second = Followers(Clock()), Watch(), Watch()
    host = Principal("hv1", Role.HOST)
    with caplog.at_level(logging.INFO):
        followers.connect(host, first)
        followers.connect(host, second)
        followers.disconnect(host, first)
        followers.disconnect(host, second)

    said = [(line.__dict__["event"], line.__dict__["host"]) for line in caplog.records]
    assert said == [("node-follows", "hv1"), ("node-gone", "hv1")]
