"""A network for the dashboard, without machines: what a node might tell of it."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.operating import health
from gateway.operating.commands import Asker
from gateway.operating.health import Finding, LookupStatus, PoolStatus
from gateway.operating.overview import Inventory, Overview, overview
from gateway.operating.report import DropReport, Report
from gateway.operating.status import Status
from gateway.operating.trends import Key, Look, Rates
from gateway.sites.status import ChildStatus, Moment, SiteStatus
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import (
    Appliance,
    Engine,
    IkeIdentity,
    Network,
    ProviderGateway,
    ProviderHost,
    Site,
    Tenant,
    Translation,
    Underlay,
    VirtualSubnet,
)
from policies.services import LookupSettings

OPERATOR = Asker("operator", is_operator=True)
HOSTS_POOL = "198.51.100.128/25"


def network(
    tenants: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]],
    *,
    hosts: int = 2,
    gateways: tuple[str, ...] = ("edge-1",),
    elsewhere: tuple[str, ...] = (),
    rewritten: str = "",
) -> Network:
    """Tenants by name, with their subnets' and sites' names; sites `elsewhere` are another gateway's.

    A tenant whose subnets are `rewritten` gives all hosts one pool, and each gateway one of its own.
    """
    made = []
    for number, (name, (subnets, sites)) in enumerate(tenants.items()):
        made.append(
            Tenant(
                name=name,
                gateways=gateways,
                subnets=tuple(
                    VirtualSubnet(
                        subnet,
                        Vsid(5001 + 1000 * number + at),
                        (
                            ipaddress.ip_network(f"10.0.{at + 1}.0/24"),
                            ipaddress.ip_network(f"fd00:{at + 1:x}::/64"),
                        ),
                        (CustomerAddress.parse(f"10.0.{at + 1}.1"),),
                        Translation.REWRITE if name == rewritten else Translation.ENCAP,
                    )
                    for at, subnet in enumerate(subnets)
                ),
                sites=tuple(
                    Site(
                        site,
                        gateways[-1] if site in elsewhere else gateways[0],
                        (ipaddress.ip_network(f"192.168.{at + 1}.0/24"),),
                        ProviderAddress.parse(f"203.0.113.{at + 20}"),
                        IkeIdentity("edge-1.example", f"{site}.example"),
                    )
                    for at, site in enumerate(sites)
                ),
            )
        )
    return Network(
        hosts=tuple(
            ProviderHost(
                f"hv{at + 1}",
                (ProviderAddress.parse(f"198.51.{100 + at // 200}.{at % 200 + 11}"),),
                tuple(tenants),
                pools=(ipaddress.ip_network(HOSTS_POOL),) if rewritten else (),
            )
            for at in range(hosts)
        ),
        gateways=tuple(
            ProviderGateway(
                name,
                (ProviderAddress.parse(f"192.0.2.{254 - at}"),),
                (ipaddress.ip_network(f"192.0.2.{64 + 32 * at}/27"),) if rewritten else (),
            )
            for at, name in enumerate(gateways)
        ),
        tenants=tuple(made),
    )


def site_status(
    tenant: str, name: str, now: float, state: str = "up", why: str = "", ago: float = 8040.0
) -> SiteStatus:
    """How a site is: up, or down since so many seconds ago and why."""
    turns = [
        Moment(now - ago - 40, "authenticated", "AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384"),
        Moment(now - ago - 39, "up", "AES_GCM_16_256 for 10.0.1.0/24 === 192.168.1.0/24"),
    ]
    if state != "up":
        turns.append(Moment(now - ago, "down", why))
    child = ChildStatus(
        "all",
        "AES_GCM_16_256",
        "c1a2b3c4",
        "0d0e0f10",
        ["10.0.1.0/24", "10.0.2.0/24"],
        ["192.168.1.0/24"],
        False,
        1438,
    )
    return SiteStatus(
        tenant=tenant,
        site=name,
        state=state,
        since=now - ago,
        start="start",
        peer="203.0.113.20",
        local_id="edge-1.example",
        remote_id=f"{name}.example",
        prefixes=["192.168.1.0/24"],
        path="192.0.2.254:500 - 203.0.113.20:500",
        ike_suite="AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384" if state == "up" else None,
        children=[child] if state == "up" else [],
        sent_packets=812_113,
        sent_octets=733_412_000,
        received_packets=1_200_345,
        received_octets=1_612_345_678,
        ike_rekeys=2,
        child_rekeys=9,
        failures=0 if state == "up" else 4,
        retry_in=None if state == "up" else 12.0,
        last_error=Moment(now - ago, "down", why) if why else None,
        history=turns,
    )


class World:
    """What the canned appliance tells; tests change it while a browser looks."""

    def __init__(self, of: Network, now: float, *, lookup: bool = True) -> None:
        self.now = now
        self.appliance = Appliance(
            name="edge-1",
            state=Path("/var/lib/isthmus"),
            engine=Engine.PYTHON,
            underlay=Underlay((ProviderAddress.parse("192.0.2.254"),)),
            gateway=True,
            lookup=LookupSettings() if lookup else None,
            host=None,
            network=of,
        )
        self.sites: dict[tuple[str, str], SiteStatus] = {}
        self.rates: dict[Key, Rates] = {}
        self.drops: dict[tuple[str, str], tuple[int, float]] = {}
        self.findings: list[Finding] = []
        self.events: list[dict[str, Any]] = []
        self.moves: list[dict[str, Any]] = []
        self.pools: list[PoolStatus] = []
        self.held: dict[tuple[int, str], int] = {
            (subnet.vsid, host.name): 2 + (at + number) % 3
            for tenant in of.tenants
            for number, subnet in enumerate(tenant.subnets)
            for at, host in enumerate(of.hosts)
            if (at + number) % max(1, len(of.hosts) // 2) == 0 or len(of.hosts) < 4
        }
        for tenant in of.tenants:
            for at, site in enumerate(tenant.sites):
                if site.gateway == "edge-1":
                    self.sites[tenant.name, site.name] = site_status(tenant.name, site.name, now)
                    self.rates[Key(tenant.name, site=site.name)] = Rates(
                        300.0, 4e5 / (at + 1), 900.0, 1.9e6 / (at + 1)
                    )
            for at, subnet in enumerate(tenant.subnets):
                self.rates[Key(tenant.name, subnet=subnet.name)] = Rates(
                    1200.0, 1.9e6 / 4**at, 500.0, 3e5 / (at + 1)
                )

    def break_site(self, tenant: str, site: str, why: str, state: str = "down", ago: float = 192.0) -> None:
        self.sites[tenant, site] = site_status(tenant, site, self.now, state, why, ago)
        self.rates.pop(Key(tenant, site=site), None)

    def overview(self, asker: Asker = OPERATOR) -> Overview:
        report = Report(
            node="edge-1",
            drops=[
                DropReport(reason, tenant, packets) for (reason, tenant), (packets, _) in self.drops.items()
            ],
        )
        look = Look(
            at=self.now,
            report=report,
            sites=list(self.sites.values()),
            rates=self.rates,
            drop_rates={key: rate for key, (_, rate) in self.drops.items()},
        )
        status = Status(
            name="edge-1",
            version="0.1.0",
            process=os.getpid(),
            roles=["gateway", "lookup"] if self.appliance.lookup else ["gateway"],
            started_at=self.now - 260_000,
            engine="python",
            attached="(eth1, MTU 1500), engine python",
            records=sum(self.held.values()),
            sites_up=0,
            sites=0,
            at=self.now,
            provider_addresses=["192.0.2.254"],
            health=health.sorted_by_gravity(
                finding
                for finding in (*self.findings, *health.of_sites(self.sites.values()))
                if asker.sees(finding.tenant)
            ),
            drops=[],
            lookup=LookupStatus(serves=True, is_synced=True, stale_seconds=0.0, revision=41, pools=self.pools)
            if asker.tenants is None
            else None,
        )
        return overview(asker, self.appliance, Inventory.of(self.appliance.network, self.held), status, look)

    def trend(self, tenant: str, site: str = "", subnet: str = "") -> dict[str, Any]:
        """A day and a quarter of an hour, with one outage yesterday evening and whatever the site is now."""

        def series(step: float, points: int) -> dict[str, Any]:
            wave = [2e6 * (1 + math.sin(at / 17)) + 4e5 * math.sin(at * 1.7) ** 2 for at in range(points)]
            return {
                "step": step,
                "end": self.now,
                "sent_packets": [each / 1000 for each in wave],
                "sent_octets": [each / 5 + 2e5 for each in wave],
                "received_packets": [each / 900 for each in wave],
                "received_octets": wave,
            }

        turns = [
            {"at": self.now - 70_000, "is_up": True},
            {"at": self.now - 31_000, "is_up": False},
            {"at": self.now - 28_400, "is_up": True},
            {"at": self.now - 8040, "is_up": False},
            {"at": self.now - 8040, "is_up": True},
        ]
        status = self.sites.get((tenant, site))
        if status is not None and status.state != "up":
            turns.append({"at": status.since, "is_up": False})
        return {
            "tenant": tenant,
            "site": site,
            "subnet": subnet,
            "at": self.now,
            "watched_since": self.now - 70_000,
            "fine": series(5.0, 180),
            "coarse": series(300.0, 233),
            "turns": turns if site else [],
            "status": status,
        }

    def records(self, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Every record, in order."""
        for tenant in self.appliance.network.tenants:
            for subnet in tenant.subnets:
                if query.get("tenant", tenant.name) != tenant.name:
                    continue
                at = 4
                for host in self.appliance.network.hosts:
                    for _ in range(self.held.get((subnet.vsid, host.name), 0)):
                        at += 1
                        prefix = subnet.prefixes[0]
                        yield {
                            "vsid": subnet.vsid,
                            "ca": str(prefix[at]),
                            "mac": f"02:00:00:00:{subnet.vsid % 100:02x}:{at:02x}",
                            "pa": str(host.provider_addresses[0]),
                            "host": host.name,
                            "translation": subnet.translation.value,
                            "epoch": at,
                            "revision": 40 + at,
                        }


def plain(value: Any) -> bytes:
    """JSON, as an appliance writes it."""
    return msgspec.json.encode(value)


def two_tenants(now: float) -> World:
    """Red and Blue on two hosts, with sites up, down and another gateway's; some drops, events and moves."""
    world = World(
        network(
            {"red": (("web", "db"), ("seattle", "tacoma")), "blue": (("web", "db"), ("boston",))},
            gateways=("edge-1", "edge-2"),
            elsewhere=("tacoma",),
            rewritten="blue",
        ),
        now,
    )
    world.pools = [
        PoolStatus(pool=HOSTS_POOL, nodes=["hv1", "hv2"], size=126, held=12, quarantined=3, free=111),
        PoolStatus(pool="192.0.2.64/27", nodes=["edge-1"], size=30, held=30, quarantined=0, free=0),
    ]
    world.drops = {
        ("no-record", "red"): (1204, 0.0),
        ("spoofed-source", "blue"): (31, 0.0),
        ("announcement", "red"): (96, 0.2),
        ("hop-limit", "blue"): (7, 0.4),
    }
    words = [
        (
            "ready",
            "info",
            "ready: gateway edge-1 and lookup service on 192.0.2.254:7637, store sqlite",
            "",
            "",
        ),
        ("site-up", "info", "up: AES_GCM_16_256 for 10.0.1.0/24 === 192.168.1.0/24", "red", "seattle"),
        ("site-up", "info", "up: AES_GCM_16_256 for 10.0.1.0/24 === 192.168.1.0/24", "blue", "boston"),
        ("moved", "info", "10.0.1.6 moved from hv2 to hv1 in 21 ms", "red", ""),
        ("reloaded", "info", "2 changes taken over", "", ""),
        ("dropped", "warning", "dropped 12 packets: no-record", "red", ""),
    ]
    for at, (event, level, text, tenant, site) in enumerate(words):
        world.events.append(
            {
                "at": now - 8000 + 1200 * at,
                "event": event,
                "level": level,
                "words": text,
                "tenant": tenant,
                "site": site,
            }
        )
    world.moves = [
        {
            "at": now - 4400 - 1900 * at,
            "tenant": "red",
            "subnet": "web",
            "vsid": 5001,
            "mac": f"02:00:00:00:01:0{6 + at}",
            "addresses": [f"10.0.1.{6 + at}", f"fd00:1::{6 + at}"],
            "was": "hv2",
            "was_pa": "198.51.100.12",
            "host": "hv1",
            "pa": "198.51.100.11",
            "epoch": 3 + at,
            "mode": mode,
            "seconds": seconds,
            "learned": 3,
            "waiting": [],
        }
        for at, (mode, seconds) in enumerate((("orchestrate", 0.0211), ("announce", 0.0374)))
    ]
    return world
