"""What `isthmus status` finds wrong, whom it tells, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway.forwarding.drops import DropReason, Drops
from gateway.operating import health
from gateway.operating.commands import OWNER, Asker, carry_out
from gateway.operating.configuration import Configuration
from gateway.operating.health import LeaseStatus, LookupStatus, PoolStatus
from gateway.operating.listing import is_well, status_lines
from gateway.operating.recent import RecentDrops
from gateway.operating.report import (
    AttachedReport,
    BridgeReport,
    CertificateReport,
    DropReport,
    FastPathReport,
    LeftReport,
    LoopReport,
    Report,
    SubnetReport,
)
from gateway.operating.status import Running, Status, Traffic, commands
from gateway.sites.status import Moment, SiteStatus
from policies.model import Appliance, Engine, FastPathMode, FastPathSettings, Underlay
from tests.gateway.sites.samples import site_status
from tests.networks import network, pa

NOW = 1_795_364_648.0
DAY = 86_400.0
APPLIANCE = Appliance(
    name="edge-1",
    state=Path("/nowhere"),
    engine=Engine.AUTO,
    underlay=Underlay((pa("edge-1"),)),
    gateway=True,
    lookup=None,
    host=None,
    network=network(),
)
UP = site_status(since=NOW - 60)
DOWN = msgspec.structs.replace(
    UP,
    tenant="blue",
    state="waiting",
    failures=4,
    retry_in=3.0,
    last_error=Moment(NOW - 1, "trouble", "the peer accepted none of our proposals"),
)
WELL = Report(
    node="edge-1", version="1.2", engine="python", records=8, loops=[LoopReport("trio", 0.002, 0.001)]
)
CONFIGURATION = Configuration(taken_at=NOW - 100)
FOLLOWS = LookupStatus(serves=False, is_synced=True, stale_seconds=0.0, revision=7)


def pool(held: int, quarantined: int) -> PoolStatus:
    """One of 62 addresses."""
    return PoolStatus(
        pool="198.51.100.128/26",
        nodes=["hv1", "hv2"],
        size=62,
        held=held,
        quarantined=quarantined,
        free=62 - held - quarantined,
    )


def leases(held: int) -> LeaseStatus:
    """Red's, of the thousand that it may have."""
    return LeaseStatus(tenant="red", node="edge-1", held=held, limit=1000)


FAST = FastPathReport(
    interfaces=[AttachedReport("eth1", "native"), AttachedReport("eth2", "native")],
    pinned=False,
    records=1204,
    capacity=1 << 20,
    without_place=0,
    tenants=3,
    tenants_left=0,
    left_to_python=[],
    hops_unresolved=0,
    hops_resyncs=0,
    unresolved=[],
    carried=5_432_100,
    passed={"site": 1000, "no-record": 1},
)


def fast(**changes: Any) -> Report:
    """A node whose fast path carries packets."""
    return msgspec.structs.replace(WELL, engine="xdp", fastpath=msgspec.structs.replace(FAST, **changes))


READER = Asker("a customer", is_operator=False, tenants=frozenset({"red"}))


class FakePath:
    in_words = "(eth1, MTU 1500), engine python"

    def __init__(self, report: Report, sites: list[SiteStatus]) -> None:
        self._report, self._sites = report, sites

    def report(self) -> Report:
        return self._report

    def sites(self) -> list[SiteStatus]:
        return self._sites


def ask(
    command: str,
    report: Report = WELL,
    sites: list[SiteStatus] | None = None,
    asker: Asker = OWNER,
    *,
    drops: list[DropReport] | None = None,
    configuration: Configuration = CONFIGURATION,
    lookup: LookupStatus | None = FOLLOWS,
    mode: FastPathMode = FastPathMode.AUTO,
) -> Any:
    path = FakePath(report, sites if sites is not None else [UP])

    async def of_lookup() -> LookupStatus | None:
        return lookup

    running = Running(
        appliance=msgspec.structs.replace(APPLIANCE, fastpath=FastPathSettings(mode=mode)),
        started_at=NOW - 3600,
        wall_clock=lambda: NOW,
        clock=lambda: 5.0,
        path=path,
        report=path.report,
        last_minute=lambda: drops or [],
        configuration=lambda: configuration,
        lookup=of_lookup,
    )
    return trio.run(carry_out, commands(running), asker, command, {}, _never)


async def _never(_: Any) -> None:
    raise AssertionError("it answers once")


def found(**parts: Any) -> list[tuple[str, str]]:
    status: Status = ask("status", **parts)
    return [(finding.level, finding.words) for finding in status.health]


def test_appliance_that_is_well_says_so() -> None:
    status: Status = ask("status")
    assert status.health == []
    assert is_well(status)
    assert (status.sites_up, status.sites, status.records, status.version) == (1, 1, 8, "1.2")
    lines = list(status_lines(status))
    assert lines[0] == "edge-1: all is well"
    assert "sites          1 of 1 up" in lines
    assert "lookup         follows, revision 7, up to date" in lines


def test_what_is_wrong_comes_first_and_the_worst_of_it_before_all() -> None:
    status: Status = ask(
        "status",
        sites=[UP, DOWN],
        configuration=Configuration(taken_at=NOW - 10, rolls_back_in=42.0),
        drops=[DropReport("spoofed-source", "red", 100), DropReport("hop-limit", "red", 1000)],
    )
    lines = list(status_lines(status))
    assert lines[:4] == [
        "edge-1: 3 things are wrong",
        (
            "  !! site blue/seattle is down, 4 attempts have failed: the peer accepted none of our proposals"
            " (for 1 min 0 s)"
        ),
        "       `isthmus sites FILE blue/seattle` tells more",
        "  !  100 packets of red were dropped in the last minute: spoofed-source",
    ]
    assert not is_well(status)


@pytest.mark.parametrize(
    ("parts", "level", "words"),
    [
        ({"lookup": msgspec.structs.replace(FOLLOWS, is_synced=False)}, "bad", "has not been heard of"),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, not_served=["pools: lo"])},
            "bad",
            "not served: pools: lo",
        ),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, stale_seconds=75.0)},
            "warning",
            "the lookup service has been away for 75 s",
        ),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, serves=True, most_behind=45.0)},
            "warning",
            "a follower has not acknowledged changes for 45 s",
        ),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, serves=True, pools=[pool(56, 3)])},
            "warning",
            "the pool 198.51.100.128/26 of hv1, hv2: 3 of 62 addresses are free, and 3 wait for the end of",
        ),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, serves=True, pools=[pool(62, 0)])},
            "bad",
            "0 of 62 addresses are free",
        ),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, short_of_leases=[leases(950)])},
            "warning",
            "red holds 950 of 1,000 leases at edge-1",
        ),
        (
            {"lookup": msgspec.structs.replace(FOLLOWS, short_of_leases=[leases(1000)])},
            "bad",
            "red holds 1,000 of 1,000 leases at edge-1",
        ),
        (
            {"configuration": Configuration(taken_at=NOW, differs_since=NOW - 5, why="it was rolled back")},
            "warning",
            "the file is not what runs: it was rolled back",
        ),
        (
            {"report": msgspec.structs.replace(WELL, loops=[LoopReport("trio", 1.2, 0.3)])},
            "warning",
            "the trio loop was up to 1.2 s late",
        ),
        (
            {
                "report": msgspec.structs.replace(
                    WELL, certificates=[CertificateReport("api.tls", NOW + 3 * DAY)]
                )
            },
            "warning",
            "the certificate of api.tls: expires in 3 days",
        ),
        (
            {
                "report": msgspec.structs.replace(
                    WELL, certificates=[CertificateReport("site", NOW - DAY, "red", "seattle")]
                )
            },
            "bad",
            "the certificate of site red/seattle, site: has expired",
        ),
        (
            {"report": msgspec.structs.replace(WELL, bridge=BridgeReport(0, [], "no such bridge"))},
            "bad",
            "no such bridge",
        ),
        (
            {
                "sites": [
                    msgspec.structs.replace(DOWN, failures=0, last_error=None, retry_in=None, start="trap")
                ]
            },
            "note",
            "waits for the first packet",
        ),
        (
            {"sites": [msgspec.structs.replace(DOWN, state="connecting", failures=0, last_error=None)]},
            "bad",
            "203.0.113.7 is being dialled",
        ),
    ],
)
def test_each_thing_that_is_wrong_is_told(parts: dict[str, Any], level: str, words: str) -> None:
    ((told_level, told),) = found(**parts)
    assert told_level == level
    assert words in told


def test_fast_path_that_is_well_is_one_line() -> None:
    status: Status = ask("status", fast(pinned=True))

    assert status.health == []
    assert status.engine == "xdp"
    assert (
        "fast path      native on eth1, native on eth2, pinned; 1,204 records, 3 tenants; "
        "packets: 5,432,100 carried, 1,001 left to Python"
    ) in list(status_lines(status))


GENERIC = [AttachedReport("eth1", "native"), AttachedReport("eth2", "generic", "the driver has no XDP")]


@pytest.mark.parametrize(
    ("report", "mode", "told"),
    [
        (
            fast(interfaces=GENERIC),
            FastPathMode.NATIVE,
            ("warning", "generic on eth2, and so several times slower: the driver has no XDP"),
        ),
        (fast(interfaces=GENERIC), FastPathMode.AUTO, ("note", "generic on eth2")),
        (
            fast(interfaces=[AttachedReport("eth1", "detached", "the interface is gone")]),
            FastPathMode.GENERIC,
            ("warning", "comes by eth1, where the fast path is no longer attached: the interface is gone"),
        ),
        (
            fast(without_place=96),
            FastPathMode.AUTO,
            ("warning", "full: 96 of 1,300 records are left to Python"),
        ),
        (
            fast(hops_unresolved=1, unresolved=["198.51.100.12 has no next hop: no route"]),
            FastPathMode.AUTO,
            ("warning", "the fast path's reach: 198.51.100.12 has no next hop: no route"),
        ),
        (
            fast(tenants_left=1, left_to_python=[LeftReport("blue", "more than 64 access rule entries")]),
            FastPathMode.AUTO,
            ("note", "Python alone carries tenants: blue (more than 64 access rule entries)"),
        ),
        (
            msgspec.structs.replace(WELL, engine_reason="needs CAP_BPF, which this process lacks"),
            FastPathMode.AUTO,
            ("note", "Python carries every packet: the fast path needs CAP_BPF, which this process lacks"),
        ),
    ],
)
def test_what_the_fast_path_cannot_do_is_told(
    report: Report, mode: FastPathMode, told: tuple[str, str]
) -> None:
    ((level, words),) = found(report=report, mode=mode)

    assert level == told[0]
    assert told[1] in words


def test_names_of_what_the_fast_path_does_not_reach_are_few_and_the_rest_is_counted() -> None:
    hops = [f"198.51.100.{last}" for last in range(1, 101)]

    ((_, words),) = found(report=fast(hops_unresolved=5000, unresolved=hops))

    assert words.endswith("198.51.100.8 and 4,992 more")
    assert "198.51.100.9" not in words


def test_generic_mode_that_was_asked_for_is_nothing_to_tell() -> None:
    assert found(report=fast(interfaces=GENERIC), mode=FastPathMode.GENERIC) == []


def flapping(downs: int, ago: float = 60.0) -> SiteStatus:
    history = [Moment(NOW - ago + each, "down", "the peer closed it") for each in range(downs)]
    return msgspec.structs.replace(UP, history=history)


def test_site_that_is_up_but_was_not_again_and_again_is_told_with_when_and_why() -> None:
    assert found(sites=[flapping(3)]) == [
        ("warning", "site red/seattle has gone down 3 times in an hour, last 58 s ago: the peer closed it")
    ]
    assert found(sites=[flapping(2)]) == []
    assert found(sites=[flapping(3, ago=3700)]) == []
    ((_, words),) = found(sites=[msgspec.structs.replace(flapping(5), state="waiting", retry_in=3.0)])
    assert "is down" in words


def test_little_things_are_not_told() -> None:
    assert (
        found(
            lookup=msgspec.structs.replace(FOLLOWS, stale_seconds=1.0, pools=[pool(50, 5)]),
            drops=[DropReport("spoofed-source", "red", health.WORTH_A_WORD - 1)],
            report=msgspec.structs.replace(
                WELL,
                certificates=[CertificateReport("api.tls", NOW + 90 * DAY)],
                loops=[LoopReport("trio", 0.1, 0.01)],
            ),
        )
        == []
    )


def test_pools_with_the_fewest_free_addresses_are_listed_and_the_rest_is_counted() -> None:
    pools = [msgspec.structs.replace(pool(held, 0), pool=f"192.0.2.{held}/26") for held in (1, 40, 2, 30, 3)]
    status = ask("status", lookup=msgspec.structs.replace(FOLLOWS, serves=True, pools=pools))

    listed = [line for line in status_lines(status) if line.startswith("pool ")]

    assert listed[0] == "pool           192.0.2.40/26 (hv1, hv2): 40 of 62 held"
    assert len(listed) == 5
    assert listed[-1].endswith("and 1 more")


def test_what_waits_as_configured_is_worth_knowing_and_not_wrong() -> None:
    waits = msgspec.structs.replace(DOWN, failures=0, last_error=None, retry_in=None, start="respond")
    assert is_well(ask("status", sites=[waits]))


def test_reader_hears_of_no_other_tenant_and_nothing_of_the_machine() -> None:
    report = msgspec.structs.replace(
        WELL,
        loops=[LoopReport("trio", 9.0, 9.0)],
        certificates=[
            CertificateReport("api.tls", NOW - DAY),
            CertificateReport("site", NOW - DAY, "blue", "seattle"),
        ],
        meters=[
            SubnetReport(tenant=tenant, subnet="web", vsid=vsid)
            for tenant, vsid in (("red", 5001), ("blue", 6001))
        ],
        drops=[DropReport("hop-limit", tenant, 5) for tenant in ("red", "blue", "")],
    )
    drops = [DropReport("site-down", tenant, 50) for tenant in ("blue", "")]

    status: Status = ask("status", report, [UP, DOWN], READER, drops=drops)
    traffic: Traffic = ask("traffic", report, [UP, DOWN], READER)

    assert status.health == []
    assert (status.sites, status.drops, status.certificates, status.loops) == (1, [], [], [])
    assert status.configuration is None
    assert status.lookup is None
    assert [each.tenant for each in traffic.subnets] == ["red"]
    assert [each.tenant for each in traffic.drops] == ["red"]
    assert b"blue" not in msgspec.json.encode(status)
    blue = fast(tenants_left=1, left_to_python=[LeftReport("blue", "too many rules")])
    assert b"blue" not in msgspec.json.encode(ask("status", blue, [UP], READER))


def test_drops_of_the_last_minute_are_forgotten_after_it() -> None:
    async def main() -> None:
        drops = Drops()
        drops.count(DropReason.LOOP)
        recent = RecentDrops(drops)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recent.watch)
            drops.count(DropReason.HOP_LIMIT, "red")
            drops.count(DropReason.HOP_LIMIT, "red")
            drops.count(DropReason.TOO_BIG, "red")
            assert recent.last_minute() == [
                DropReport("hop-limit", "red", 2),
                DropReport("too-big", "red", 1),
            ]
            await trio.sleep(50)
            assert len(recent.last_minute()) == 2
            await trio.sleep(15)
            assert recent.last_minute() == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
