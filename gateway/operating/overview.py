"""All that the dashboard shows at once: the network with what is in it, how each part is, and what is wrong.

It is looked at once a second at most, however many ask, and each asker is told of their own tenants
alone: whoever may not see Blue hears neither of it nor of the hosts that hold only Blue's VMs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import msgspec

from gateway.forwarding.drops import USUAL, DropReason
from gateway.operating.commands import Asker, Command, Commands, Nothing
from gateway.operating.status import Status
from gateway.operating.trends import STILL, Key, Look, Rates, Trends
from gateway.sites.status import SiteStatus
from policies.model import Appliance

MOST_TENANTS = 500
"""Tenants told of at once: first those with a site that is down, then those that carry most."""

Held = Mapping[tuple[int, str], int]
"""How many records each host holds in each virtual subnet, by VSID and name."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be."""

    level: str
    """bad: somebody's packets do not arrive. warning: they might not, soon. note: worth knowing."""
    words: str
    advice: str = ""
    since: float | None = None
    """In seconds since 1970, UTC."""
    tenant: str = ""
    site: str = ""


class HostView(msgspec.Struct, frozen=True):
    """A host, with the provider addresses that it has and how many records it holds in each VSID."""

    name: str
    addresses: list[str]
    tenants: list[str]
    records: dict[int, int]


class GatewayView(msgspec.Struct, frozen=True):
    """A gateway."""

    name: str
    addresses: list[str]
    is_here: bool


class SubnetView(msgspec.Struct, frozen=True):
    """A virtual subnet."""

    name: str
    vsid: int
    prefixes: list[str]
    records: int
    rates: Rates


class SiteView(msgspec.Struct, frozen=True):
    """A site. `status` is None where another gateway dials it, or none does."""

    name: str
    gateway: str
    prefixes: list[str]
    rates: Rates
    status: SiteStatus | None


class TenantView(msgspec.Struct, frozen=True):
    """A tenant, with all that is its own."""

    name: str
    gateways: list[str]
    subnets: list[SubnetView]
    sites: list[SiteView]
    routes: int
    access_rules: int
    dropped: float
    """Packets each second."""


class DropView(msgspec.Struct, frozen=True):
    """Packets dropped for one reason, of one tenant: since the start, and each second now."""

    reason: str
    tenant: str
    packets: int
    rate: float


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """One appliance and its network, as far as the asker may see. Times are Unix time."""

    at: float
    asker: str
    sees_all: bool
    is_operator: bool
    carries: bool
    """Whether this node carries packets at all: without, nothing is known of rates, drops and tunnels."""
    status: Status
    health: list[Finding]
    hosts: list[HostView]
    gateways: list[GatewayView]
    tenants: list[TenantView]
    tenants_left_out: int
    drops: list[DropView]
    reasons: dict[str, str]
    """What each reason means, in words."""
    records_at: str
    """Where records can be asked for: empty is here."""
    serves_records: bool
    usual: list[str]
    """Reasons that guests cause all the time."""


class Running(msgspec.Struct, frozen=True, eq=False):
    """What the overview is made of: each is asked for what is now."""

    appliance: Callable[[], Appliance]
    """The configuration in force, with the network that is decided by."""
    held: Callable[[], Held]
    status: Callable[[Asker], Awaitable[Status]]
    now: Callable[[], float]
    """In seconds since 1970, UTC."""
    findings: Callable[[Asker], Iterable[Finding]] = lambda _asker: ()
    """What other parts know to be wrong."""


def commands(running: Running, trends: Trends | None) -> Commands:
    """Return what the dashboard asks. Without trends, this node carries nothing."""

    async def answer(asker: Asker, _wanted: Nothing) -> Overview:
        status = await running.status(asker)
        look = trends.look() if trends is not None else None
        others = running.findings(asker)
        return overview(asker, running.appliance(), running.held(), status, look, running.now(), others)

    return {"overview": Command(answer)}


def overview(
    asker: Asker,
    appliance: Appliance,
    held: Held,
    status: Status,
    look: Look | None,
    now: float,
    others: Iterable[Finding] = (),
) -> Overview:
    """Put together what one asker may see. `now` is in seconds since 1970, UTC."""
    seen = _Seen(asker, appliance, held, look)
    tenants = sorted(seen.tenants(), key=_urgency)
    return Overview(
        at=look.at if look is not None else now,
        asker=asker.name,
        sees_all=asker.tenants is None,
        is_operator=asker.is_operator,
        carries=look is not None,
        status=status,
        health=sorted([*others, *seen.findings()], key=_gravity),
        hosts=list(seen.hosts()),
        gateways=seen.gateways(),
        tenants=sorted(tenants[:MOST_TENANTS], key=lambda tenant: tenant.name),
        tenants_left_out=max(0, len(tenants) - MOST_TENANTS),
        drops=seen.drops(),
        reasons={reason.value: reason.words for reason in DropReason},
        records_at=_records_at(appliance),
        serves_records=appliance.lookup is not None,
        usual=sorted(reason.value for reason in USUAL),
    )


class _Seen:
    """What one asker sees of one look."""

    def __init__(self, asker: Asker, appliance: Appliance, held: Held, look: Look | None) -> None:
        self._asker = asker
        self._appliance = appliance
        self._network = appliance.network
        self._held = held
        self._look = look
        self._rates = look.rates if look is not None else {}
        self._sites = (
            {(site.tenant, site.site): site for site in look.sites if asker.sees(site.tenant)} if look else {}
        )
        self._visible = [tenant for tenant in self._network.tenants if asker.sees(tenant.name)]
        self._drops = self._find_drops()

    def tenants(self) -> Iterator[TenantView]:
        records: dict[int, int] = {}
        for (vsid, _), count in self._held.items():
            records[vsid] = records.get(vsid, 0) + count
        dropped: dict[str, float] = {}
        for drop in self._drops:
            dropped[drop.tenant] = dropped.get(drop.tenant, 0.0) + drop.rate
        for tenant in self._visible:
            yield TenantView(
                name=tenant.name,
                gateways=list(tenant.gateways),
                subnets=[
                    SubnetView(
                        name=subnet.name,
                        vsid=subnet.vsid,
                        prefixes=[str(prefix) for prefix in subnet.prefixes],
                        records=records.get(subnet.vsid, 0),
                        rates=self._rates.get(Key(tenant.name, subnet=subnet.name), STILL),
                    )
                    for subnet in tenant.subnets
                ],
                sites=[
                    SiteView(
                        name=site.name,
                        gateway=site.gateway,
                        prefixes=[str(prefix) for prefix in site.prefixes],
                        rates=self._rates.get(Key(tenant.name, site=site.name), STILL),
                        status=self._sites.get((tenant.name, site.name)),
                    )
                    for site in tenant.sites
                ],
                routes=len(tenant.routes),
                access_rules=len(tenant.access),
                dropped=dropped.get(tenant.name, 0.0),
            )

    def hosts(self) -> Iterator[HostView]:
        vsids = {subnet.vsid for tenant in self._visible for subnet in tenant.subnets}
        records: dict[str, dict[int, int]] = {}
        for (vsid, host), count in self._held.items():
            if vsid in vsids:
                records.setdefault(host, {})[vsid] = count
        for host in self._network.hosts:
            tenants = [name for name in host.tenants if self._asker.sees(name)]
            if tenants or self._asker.tenants is None:
                addresses = [str(address) for address in host.provider_addresses]
                yield HostView(host.name, addresses, tenants, records.get(host.name, {}))

    def gateways(self) -> list[GatewayView]:
        named = {name for tenant in self._visible for name in tenant.gateways}
        named |= {site.gateway for tenant in self._visible for site in tenant.sites}
        return [
            GatewayView(
                name=gateway.name,
                addresses=[str(address) for address in gateway.provider_addresses],
                is_here=self._appliance.gateway and gateway.name == self._appliance.name,
            )
            for gateway in self._network.gateways
            if self._asker.tenants is None or gateway.name in named
        ]

    def drops(self) -> list[DropView]:
        return self._drops

    def findings(self) -> Iterator[Finding]:
        if self._look is None:
            return
        for site in self._sites.values():
            yield from _of_site(site)
        for drop in self._drops:
            if (serious := _SERIOUS.get(drop.reason)) is not None and drop.rate >= _WORTH_A_WORD:
                whose = f" of {drop.tenant}" if drop.tenant else ""
                yield Finding(
                    level="warning",
                    words=f"{drop.rate:,.0f} packets{whose} are dropped each second: {drop.reason}",
                    advice=serious,
                    tenant=drop.tenant,
                )
        report = self._look.report
        if self._asker.tenants is None and report.bridge is not None and report.bridge.trouble:
            yield Finding(
                level="bad", words=f"the Open vSwitch bridge is waited for: {report.bridge.trouble}"
            )

    def _find_drops(self) -> list[DropView]:
        if self._look is None:
            return []
        rates = self._look.drop_rates
        return [
            DropView(drop.reason, drop.tenant, drop.packets, rates.get((drop.reason, drop.tenant), 0.0))
            for drop in self._look.report.drops
            if drop.packets and self._asker.sees(drop.tenant)
        ]


_WORTH_A_WORD = 0.5
"""Packets dropped each second for one of the reasons below, from which on it is told."""

_SERIOUS = {
    DropReason.SPOOFED_SOURCE.value: "somebody sends by addresses that are not its own, or a record is old",
    DropReason.LOOP.value: "two nodes send packets to each other: look at their provider addresses",
    DropReason.QUEUE_FULL.value: "this node is sent more than it can carry",
    DropReason.SEND_FAILED.value: "the kernel refuses packets: look at the interfaces and the firewall",
    DropReason.HOLD_FULL.value: "a moving VM's frames were more than are held for it",
    DropReason.NO_PROVIDER_ADDRESS.value: "this node lacks the family of a host's provider address",
    DropReason.SITE_DOWN.value: "packets for a site that has no tunnel",
}


def _of_site(site: SiteStatus) -> Iterator[Finding]:
    name = f"{site.tenant}/{site.site}"
    why = site.last_error.why if site.last_error is not None else ""
    if site.state == "up":
        return
    if site.state == "waiting":
        waits = "the first packet" if site.start == "trap" else "its device to dial"
        yield Finding(
            level="note" if site.last_error is None else "bad",
            words=f"site {name} is down and waits for {waits}" + (f": {why}" if why else ""),
            since=site.since,
            tenant=site.tenant,
            site=site.site,
        )
        return
    attempts = f", {site.failures} attempts have failed" if site.failures > 1 else ""
    yield Finding(
        level="bad",
        words=f"site {name} is down{attempts}" + (f": {why}" if why else ""),
        since=site.since,
        tenant=site.tenant,
        site=site.site,
    )


def _gravity(finding: Finding) -> tuple[int, float]:
    return ("bad", "warning", "note").index(finding.level), finding.since or 0.0


def _urgency(tenant: TenantView) -> tuple[bool, float]:
    is_well = all(site.status is None or site.status.state == "up" for site in tenant.sites)
    carried = sum(
        each.rates.sent_octets + each.rates.received_octets for each in (*tenant.subnets, *tenant.sites)
    )
    return is_well, -carried


def _records_at(appliance: Appliance) -> str:
    """Where records are served to people, if that is not where the dashboard is."""
    if appliance.lookup is not None:
        return appliance.lookup.listen if appliance.api is not None else ""
    return ", ".join(appliance.lookup_access.nodes) if appliance.lookup_access is not None else ""
