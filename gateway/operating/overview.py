"""All that the dashboard shows at once: the network with what is in it, and how each part is.

It is put together once a second at most for each asker, however often they ask, and of their own
tenants alone: whoever may not see Blue hears neither of it nor of the hosts that are only Blue's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec

from gateway.forwarding.drops import USUAL, DropReason
from gateway.operating.commands import Asker, Command, Commands, Nothing
from gateway.operating.status import Status
from gateway.operating.trends import AT_MOST_EVERY, STILL, Key, Look, Rates, Trends
from gateway.sites.status import SiteStatus
from policies.model import Appliance, Network

MOST_TENANTS = 500
"""Tenants told of at once: first those with a site that is down, then those that carry most."""
MOST_PLACES = 5000
"""Pairs of a host and a virtual subnet with records there, beyond which hosts are told with sums alone."""
MOST_REMEMBERED = 64
"""Askers whose overview of this second is kept."""


class Inventory(msgspec.Struct, frozen=True):
    """The network, and how many records are where."""

    network: Network
    by_subnet: Mapping[int, int]
    """By VSID."""
    by_host: Mapping[str, int]
    places: Mapping[tuple[int, str], int] | None
    """By VSID and host; None where that is not known."""

    @classmethod
    def of(cls, network: Network, places: Mapping[tuple[int, str], int]) -> Inventory:
        """Sum up the places."""
        by_subnet: dict[int, int] = {}
        by_host: dict[str, int] = {}
        for (vsid, host), count in places.items():
            by_subnet[vsid] = by_subnet.get(vsid, 0) + count
            by_host[host] = by_host.get(host, 0) + count
        return cls(network, by_subnet, by_host, places)


class HostView(msgspec.Struct, frozen=True):
    """A host with its provider addresses, and how many records it holds."""

    name: str
    addresses: list[str]
    tenants: list[str]
    held: int | None
    """Of the tenants that the asker sees; None where that is not known."""
    records: dict[int, int]
    """By VSID; empty where that is not known, or would be too much."""
    pools: list[str]
    """What its rewritten VMs' provider addresses are leased from."""


class GatewayView(msgspec.Struct, frozen=True):
    """A gateway."""

    name: str
    addresses: list[str]
    is_here: bool
    pools: list[str]
    """What provider addresses are leased from for all that rewritten VMs reach through it."""


class SubnetView(msgspec.Struct, frozen=True):
    """A virtual subnet."""

    name: str
    vsid: int
    prefixes: list[str]
    records: int
    rates: Rates
    translation: str
    """How its VMs are carried, unless their records say otherwise: `encap` or `rewrite`."""


class SiteView(msgspec.Struct, frozen=True):
    """A site. `status` is None where another gateway dials it; its past and its children are in its trend."""

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
    hosts: list[HostView]
    gateways: list[GatewayView]
    tenants: list[TenantView]
    tenants_left_out: int
    drops: list[DropView]
    reasons: dict[str, str]
    """What each reason means, in words."""
    usual: list[str]
    """Reasons that guests cause all the time."""
    serves_records: bool
    records_at: str
    """Where records can be asked for; empty: at this address, if they are served at all."""


class Running(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What the overview is made of: each is asked for what is now."""

    appliance: Appliance
    """As it was started: its name and roles stay."""
    inventory: Callable[[], Awaitable[Inventory]]
    status: Command
    """Answers with each asker's own."""
    clock: Callable[[], float]
    """In seconds, never set back."""


def commands(running: Running, trends: Trends | None) -> Commands:
    """Return what the dashboard asks. Without trends, this node carries nothing."""
    remembered: dict[Asker, tuple[float, Overview]] = {}

    async def answer(asker: Asker, wanted: Nothing) -> Overview:
        now = running.clock()
        for old in [each for each, (made, _) in remembered.items() if now >= made + AT_MOST_EVERY]:
            del remembered[old]
        if asker in remembered:
            return remembered[asker][1]
        status = await running.status.answer(asker, wanted)
        inventory = await running.inventory()
        look = trends.look() if trends is not None else None
        found = overview(asker, running.appliance, inventory, status, look)
        if len(remembered) < MOST_REMEMBERED:
            remembered[asker] = now, found
        return found

    return {"overview": Command(answer)}


def overview(
    asker: Asker, appliance: Appliance, inventory: Inventory, status: Status, look: Look | None
) -> Overview:
    """Put together what one asker may see. The status is the asker's own."""
    seen = _Seen(asker, appliance, inventory, look)
    tenants = sorted(seen.tenants(), key=_urgency)
    return Overview(
        at=status.at,
        asker=asker.name,
        sees_all=asker.tenants is None,
        is_operator=asker.is_operator,
        carries=look is not None,
        status=status,
        hosts=list(seen.hosts()),
        gateways=seen.gateways(),
        tenants=sorted(tenants[:MOST_TENANTS], key=lambda tenant: tenant.name),
        tenants_left_out=max(0, len(tenants) - MOST_TENANTS),
        drops=seen.drops,
        reasons={reason.value: reason.words for reason in DropReason},
        usual=sorted(reason.value for reason in USUAL),
        serves_records=appliance.lookup is not None,
        records_at=_records_at(appliance),
    )


class _Seen:
    """What one asker sees of one look."""

    def __init__(self, asker: Asker, appliance: Appliance, inventory: Inventory, look: Look | None) -> None:
        self._asker = asker
        self._appliance = appliance
        self._inventory = inventory
        self._network = inventory.network
        self._rates = look.rates if look is not None else {}
        self._statuses = {
            (site.tenant, site.site): msgspec.structs.replace(site, history=[], children=[])
            for site in (look.sites if look is not None else ())
            if asker.sees(site.tenant)
        }
        self._visible = [tenant for tenant in self._network.tenants if asker.sees(tenant.name)]
        self.drops = self._find_drops(look) if look is not None else []

    def tenants(self) -> Iterator[TenantView]:
        dropped: dict[str, float] = {}
        for drop in self.drops:
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
                        records=self._inventory.by_subnet.get(subnet.vsid, 0),
                        rates=self._rates.get(Key(tenant.name, subnet=subnet.name), STILL),
                        translation=subnet.translation.value,
                    )
                    for subnet in tenant.subnets
                ],
                sites=[
                    SiteView(
                        name=site.name,
                        gateway=site.gateway,
                        prefixes=[str(prefix) for prefix in site.prefixes],
                        rates=self._rates.get(Key(tenant.name, site=site.name), STILL),
                        status=self._statuses.get((tenant.name, site.name)),
                    )
                    for site in tenant.sites
                ],
                routes=len(tenant.routes),
                access_rules=len(tenant.access),
                dropped=dropped.get(tenant.name, 0.0),
            )

    def hosts(self) -> Iterator[HostView]:
        sees_all = self._asker.tenants is None
        places = self._places()
        is_too_much = sum(map(len, places.values())) > MOST_PLACES
        for host in self._network.hosts:
            tenants = [name for name in host.tenants if self._asker.sees(name)]
            if not (tenants or sees_all):
                continue
            here = places.get(host.name, {})
            held: int | None = sum(here.values())
            if self._inventory.places is None:
                held = self._inventory.by_host.get(host.name, 0) if sees_all else None
            addresses = [str(address) for address in host.provider_addresses]
            pools = [str(pool) for pool in host.pools]
            yield HostView(host.name, addresses, tenants, held, {} if is_too_much else here, pools)

    def gateways(self) -> list[GatewayView]:
        named = {name for tenant in self._visible for name in tenant.gateways}
        named |= {site.gateway for tenant in self._visible for site in tenant.sites}
        return [
            GatewayView(
                name=gateway.name,
                addresses=[str(address) for address in gateway.provider_addresses],
                is_here=self._appliance.gateway and gateway.name == self._appliance.name,
                pools=[str(pool) for pool in gateway.pools],
            )
            for gateway in self._network.gateways
            if self._asker.tenants is None or gateway.name in named
        ]

    def _places(self) -> dict[str, dict[int, int]]:
        """Of each host, how many records it holds in each virtual subnet that the asker sees."""
        vsids = {int(subnet.vsid) for tenant in self._visible for subnet in tenant.subnets}
        found: dict[str, dict[int, int]] = {}
        for (vsid, host), count in (self._inventory.places or {}).items():
            if vsid in vsids:
                found.setdefault(host, {})[vsid] = count
        return found

    def _find_drops(self, look: Look) -> list[DropView]:
        return [
            DropView(
                drop.reason, drop.tenant, drop.packets, look.drop_rates.get((drop.reason, drop.tenant), 0.0)
            )
            for drop in look.report.drops
            if drop.packets and self._asker.sees(drop.tenant)
        ]


def _urgency(tenant: TenantView) -> tuple[bool, float]:
    is_well = all(site.status is None or site.status.state == "up" for site in tenant.sites)
    rates = [*(subnet.rates for subnet in tenant.subnets), *(site.rates for site in tenant.sites)]
    return is_well, -sum(each.sent_octets + each.received_octets for each in rates)


def _records_at(appliance: Appliance) -> str:
    """Where records are served to people, if that is not where the dashboard is."""
    if appliance.lookup is not None:
        return appliance.lookup.listen if appliance.api is not None else ""
    return ", ".join(appliance.lookup_access.nodes) if appliance.lookup_access is not None else ""
