from __future__ import annotations

import asyncio
import itertools
from ipaddress import ip_network

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from gateway.api.families import FAMILIES, Kind
from gateway.api.measured import Listener, Scrape
from gateway.api.metrics import metrics_route, metrics_text
from gateway.api.operating import asker_of
from gateway.forwarding.drops import DropReason
from gateway.http.calls import Call
from gateway.http.door import Door
from gateway.http.measures import BUCKETS, Histogram, Measures
from gateway.http.principals import ANYBODY, Principal
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.figures import FollowersReport, LookupReport
from gateway.operating.commands import OWNER, Asker
from gateway.operating.configuration import Configuration
from gateway.operating.report import (
    AttachedReport,
    BridgeReport,
    CertificateReport,
    DropReport,
    EspDropReport,
    FastPathReport,
    LeftReport,
    LoopReport,
    Report,
    RewritingReport,
    SiteReport,
    SubnetReport,
    TunnelReport,
    TunnelsReport,
)
from policies.services import ALL_TENANTS, Role
from tunnels.effects import Cause
from tunnels.esp.drops import EspDrop

NAMES = {"red": "seattle", "blue": 'o"slo\\\n'}


def histogram(*took: float) -> Histogram:
    found = Histogram()
    for seconds in took:
        found.tell(seconds)
    return found


def site(tenant: str, *, is_up: bool, here: bool = True) -> SiteReport:
    tunnel = TunnelReport(
        is_up=is_up,
        since=1_700_000_000.0,
        turns_down=3,
        ike_rekeys=1,
        child_rekeys=2,
        failures={cause.value: 0 for cause in Cause} | {"authentication": 7},
        drops={reason.value: 0 for reason in EspDrop if reason is not EspDrop.UNKNOWN_SPI} | {"replayed": 4},
    )
    return SiteReport(
        tenant=tenant,
        site=NAMES[tenant] if here else "elsewhere",
        mtu=1400 if is_up else None,
        sent_packets=2,
        sent_octets=168,
        received_packets=3,
        received_octets=252,
        too_big=5,
        tunnel=tunnel if here else None,
    )


FAST = FastPathReport(
    interfaces=[AttachedReport("eth1", "native"), AttachedReport("eth2", "generic", "no driver")],
    pinned=False,
    records=7,
    capacity=1024,
    without_place=1,
    tenants=1,
    tenants_left=1,
    left_to_python=[LeftReport("blue", "more than 64 access rule entries")],
    hops_unresolved=1,
    hops_resyncs=2,
    unresolved=["198.51.100.12"],
    carried=1000,
    passed={"miss": 10, "site": 20},
)


def everything() -> Scrape:
    """A node with all that there can be."""
    report = Report(
        node="edge-1",
        version="1.2",
        started_at=1_700_000_000.0,
        engine="xdp",
        loops=[LoopReport("trio", 0.2, 0.01), LoopReport("asyncio", 0.1, 0.02)],
        certificates=[CertificateReport("api.tls", 1_800_000_000.0)],
        configuration=Configuration(taken_at=1_700_000_000.0, rolls_back_in=30.0, reloads=2, failures=1),
        records=8,
        drops=[DropReport("no-record", "red", 9), DropReport("loop", "", 1)],
        meters=[SubnetReport(tenant="red", subnet="web", vsid=5001, sent_packets=1, sent_octets=84)],
        sites=[site("red", is_up=True), site("blue", is_up=False), site("blue", is_up=False, here=False)],
        sources_elsewhere={"red": 6},
        tunnels=TunnelsReport(
            esp_drops=[EspDropReport("unknown-spi", "", 2), EspDropReport("replayed", "red/seattle", 4)],
            ike_drops={"ike-malformed": 3},
            unsent={"ENETUNREACH": 1},
        ),
        rewriting=RewritingReport(received=11, waiting=2, answered=3, contested=1, kernel_drops=5),
        fastpath=FAST,
        bridge=BridgeReport(flows=12, ports=["vnet1"], trouble=""),
    )
    followers = FollowersReport(
        watches=2,
        nodes={"host": 2, "gateway": 1},
        most_behind=0.5,
        moves={"register": 0, "announce": 3, "orchestrate": 1},
        alerts={"refused": 0, "unknown": 2, "frozen": 1},
        convergence=histogram(0.002, 0.004, 20.0),
        writes=histogram(0.001),
        failed_writes=0,
    )
    lookup = LookupReport(
        41,
        True,
        0.0,
        {"red": 4, "blue": 4},
        leases={("red", "edge-1"): 998, ("blue", "edge-1"): 0},
        lease_limits={"red": 1000, "blue": 1000},
        pools=[
            PoolUsage(ip_network("198.51.100.128/26"), ("hv1", "hv2"), 62, held=40, quarantined=2),
            PoolUsage(ip_network("192.0.2.128/30"), ("edge-1",), 2, held=2, quarantined=1),
        ],
        followers=followers,
    )
    measures = Measures()
    measures.answered("GET", "/v1/status", 200, 0.003)
    measures.answered("", "", 404, 0.001)
    listeners = {"lookup": Listener(measures, Door()), "api": Listener(measures, Door())}
    return Scrape(report, lookup, listeners)


def scraped(scrape: Scrape, asker: Asker = OWNER, *, is_open: bool = False) -> str:
    return "".join(metrics_text(scrape, asker, is_open=is_open))


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(scrape: Scrape, asker: Asker = OWNER, *, is_open: bool = False) -> Series:
    parse = parse_open if is_open else parse_plain
    found: Series = {}
    for family in parse(scraped(scrape, asker, is_open=is_open)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.mark.parametrize("is_open", [False, True])
def test_site_that_is_down_is_a_series_with_0_and_not_a_missing_one(is_open: bool) -> None:
    found = series(everything(), is_open=is_open)

    assert value(found, "isthmus_site_up", tenant="red", site="seattle") == 1
    assert value(found, "isthmus_site_up", tenant="blue", site=NAMES["blue"]) == 0
    assert not [key for key in found if ("site", "elsewhere") in key[1]]


def test_everything_that_can_happen_to_a_site_is_there_before_it_happens() -> None:
    found = series(everything())
    of_blue = {"tenant": "blue", "site": NAMES["blue"]}

    for cause in Cause:
        labels = {**of_blue, "cause": cause.value}
        assert value(found, "isthmus_handshake_failures_total", **labels) in {0, 7}
    assert value(found, "isthmus_esp_drops_total", reason="replayed", tenant="red", site="seattle") == 4
    assert value(found, "isthmus_esp_drops_total", reason="unknown-spi", tenant="", site="") == 2
    assert value(found, "isthmus_site_rekeys_total", **of_blue, what="ike") == 1
    assert value(found, "isthmus_site_too_big_total", **of_blue) == 5


def test_all_reasons_for_a_drop_are_there_from_the_start() -> None:
    found = series(everything())

    for reason in DropReason:
        assert value(found, "isthmus_drops_total", reason=reason.value, tenant="") == (reason.value == "loop")
    assert value(found, "isthmus_drops_total", reason="no-record", tenant="red") == 9


def test_what_the_fast_path_carries_and_leaves_to_python_is_told() -> None:
    found = series(everything())

    assert value(found, "isthmus_engine_info", engine="xdp") == 1
    assert value(found, "isthmus_fastpath_interface_info", interface="eth2", mode="generic") == 1
    assert value(found, "isthmus_fastpath_tenants", by="python") == 1
    assert value(found, "isthmus_fastpath_records") == 7
    assert value(found, "isthmus_fastpath_records_without_place") == 1
    assert value(found, "isthmus_fastpath_carried_packets_total") == 1000
    assert value(found, "isthmus_fastpath_passed_packets_total", reason="site") == 20


def test_addresses_of_a_pool_are_free_that_nobody_has_or_has_just_had() -> None:
    found = series(everything())
    pool, name = "198.51.100.128/26", "isthmus_pool_addresses"
    states = {state: value(found, name, pool=pool, state=state) for state in ("held", "quarantined", "free")}
    assert states == {"held": 40, "quarantined": 2, "free": 20}
    assert value(found, name, pool="192.0.2.128/30", state="free") == 0
    for node in ("hv1", "hv2"):
        assert value(found, "isthmus_pool_info", pool=pool, node=node) == 1


def test_reader_sees_the_leases_of_its_tenants_and_no_pool() -> None:
    found = series(everything(), Asker("red's", is_operator=False, tenants=frozenset({"red"})))
    assert value(found, "isthmus_leases", tenant="red", node="edge-1") == 998
    assert value(found, "isthmus_lease_limit", tenant="red") == 1000
    assert not any(name.startswith("isthmus_pool") for name, _ in found)
    assert not any(("tenant", "blue") in labels for _, labels in found)


def test_histogram_has_cumulative_buckets_and_its_sum() -> None:
    found = series(everything(), is_open=True)

    assert value(found, "isthmus_lookup_convergence_seconds_bucket", le="0.0025") == 1
    assert value(found, "isthmus_lookup_convergence_seconds_bucket", le=str(BUCKETS[-1])) == 2
    assert value(found, "isthmus_lookup_convergence_seconds_bucket", le="+Inf") == 3
    assert value(found, "isthmus_lookup_convergence_seconds_count") == 3
    assert value(found, "isthmus_lookup_convergence_seconds_sum") == pytest.approx(20.006)


@pytest.mark.parametrize("is_open", [False, True])
def test_every_metric_that_is_described_is_in_a_scrape_with_just_those_labels(is_open: bool) -> None:
    parts = ("_bucket", "_count", "_sum")
    found: dict[str, set[frozenset[str]]] = {}
    for name, labels in series(everything(), is_open=is_open):
        base = next((name.removesuffix(part) for part in parts if name.removesuffix(part) in FAMILIES), name)
        found.setdefault(base, set()).add(frozenset(label for label, _ in labels if label != "le"))

    assert found == {name: {frozenset(family.labels)} for name, family in FAMILIES.items()}


def test_names_are_as_open_metrics_wants_them() -> None:
    for name, family in FAMILIES.items():
        assert name.startswith("isthmus_")
        assert name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert name.endswith("_info") == (family.kind is Kind.INFO)
        if family.kind is Kind.HISTOGRAM:
            assert name.endswith("_seconds")


def test_reader_sees_the_series_of_its_tenants_and_nothing_else() -> None:
    found = series(everything(), Asker("red's", False, frozenset({"red"})))

    assert value(found, "isthmus_site_up", tenant="red", site="seattle") == 1
    assert value(found, "isthmus_lookup_records", tenant="red") == 4
    assert {dict(labels)["tenant"] for _, labels in found} == {"red"}


def test_node_that_carries_nothing_tells_of_itself_alone() -> None:
    found = series(Scrape(Report(node="lookup-1", version="1.2")))

    names = {name for name, _ in found}
    assert "isthmus_build_info" in names
    assert not [name for name in names if name.startswith(("isthmus_site", "isthmus_drops"))]


def test_open_metrics_says_which_metric_is_of_which_type() -> None:
    text = scraped(everything(), is_open=True)

    assert "# TYPE isthmus_drops counter\n" in text
    assert "# TYPE isthmus_engine info\n" in text
    assert "# TYPE isthmus_lookup_request_seconds histogram\n" in text
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1


def test_reader_of_all_tenants_sees_the_node_too() -> None:
    everybodys = asker_of(Principal("prometheus", Role.READER, frozenset({ALL_TENANTS})))

    assert not everybodys.is_operator
    assert series(everything(), everybodys) == series(everything())


def test_scrape_of_many_sites_gives_way_again_and_again_while_it_is_written() -> None:
    scrape = everything()
    sites = [site(tenant, is_up=True) for tenant in ("red", "blue")] * 100
    scrape = msgspec.structs.replace(scrape, report=msgspec.structs.replace(scrape.report, sites=sites))
    turns = itertools.count()

    async def gather() -> Scrape:
        return scrape

    async def others() -> None:
        while True:
            next(turns)
            await asyncio.sleep(0)

    async def main() -> web.StreamResponse:
        other = asyncio.create_task(others())
        call = Call(make_mocked_request("GET", "/metrics"), ANYBODY, (), "")
        answer = await metrics_route(gather).handler(call)
        other.cancel()
        return answer

    answer = asyncio.run(main())

    assert isinstance(answer, web.Response)
    assert answer.text == scraped(scrape)
    assert next(turns) > 30
