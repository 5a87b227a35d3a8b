"""The network and the appliance, as configured: frozen values without behaviour."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.ipsec import (
    MODERN_ESP,
    MODERN_IKE,
    EspProposal,
    IkeProposal,
    Lifetimes,
    SelectorMode,
    SiteStart,
)
from policies.services import ApiSettings, LookupAccess, LookupSettings

MOST_LEASES = 1000
"""Of one tenant at one gateway, unless it is said how many."""
MOST_POOLS = 64
"""Of one node: each is an entry of the filter that its packets come in by."""
DEFAULT_BRIDGE = "br-int"
DEFAULT_RUN_DIRECTORY = Path("/var/run/openvswitch")


class Translation(StrEnum):
    """How a host carries a VM's packets across the underlay."""

    ENCAP = "encap"
    REWRITE = "rewrite"


class FlowIdMode(StrEnum):
    """What a host is sent in the FlowID octet of the key (RFC 7637 section 3.2)."""

    HASH = "hash"
    ZERO = "zero"


class Action(StrEnum):
    """What an access rule does with the packets that it matches."""

    ALLOW = "allow"
    DENY = "deny"


class Engine(StrEnum):
    """Which data path decides packets."""

    AUTO = "auto"
    PYTHON = "python"
    XDP = "xdp"


class FastPathMode(StrEnum):
    """Where on an interface the fast path takes packets: in its driver, or in the kernel's general code."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"


class LogFormat(StrEnum):
    """How what happens is written down."""

    CONSOLE = "console"
    JSON = "json"


class LookupRecord(msgspec.Struct, frozen=True, gc=False):
    """Where a customer address is: (VSID, CA) -> MAC, PA, host.

    `pa` is one of the host's own, which carries NVGRE; of a rewritten record it is this CA's alone,
    from the host's pools. `epoch` rises each time the record moves; 0 is a static record, which is
    pinned. `revision` is the store's own order of all changes.
    """

    vsid: Vsid
    ca: CustomerAddress
    mac: MacAddress
    pa: ProviderAddress
    host: str
    translation: Translation = Translation.ENCAP
    epoch: int = 0
    revision: int = 0


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A provider address of a gateway's pool that stands for a CA which has none of its own.

    That is a CA at a site, of a VM that is encapsulated, or the gateway's own. `vsid` is that of the virtual
    subnet which the CA is in; for any other CA of a tenant, the lowest of the tenant's.
    """

    pa: ProviderAddress
    vsid: Vsid
    ca: CustomerAddress
    node: str
    """The gateway whose pool it is of."""
    revision: int = 0


class SubnetHop(msgspec.Struct, frozen=True, gc=False, tag="subnet"):
    """The destination is in a virtual subnet of the tenant."""

    subnet: str
    vsid: Vsid

    def __str__(self) -> str:
        return f"subnet:{self.subnet}"


class SiteHop(msgspec.Struct, frozen=True, gc=False, tag="site"):
    """The destination is reached through a site."""

    site: str

    def __str__(self) -> str:
        return f"site:{self.site}"


class AddressHop(msgspec.Struct, frozen=True, gc=False, tag="address"):
    """The next hop is a VM of the tenant, for instance a firewall."""

    ca: CustomerAddress

    def __str__(self) -> str:
        return f"via:{self.ca}"


NextHop = SubnetHop | SiteHop | AddressHop


class CustomerRoute(msgspec.Struct, frozen=True):
    """(routing domain, prefix) -> next hop."""

    prefix: Prefix
    next_hop: NextHop


class VirtualSubnet(msgspec.Struct, frozen=True):
    """One layer 2 segment of a tenant, on the wire a VSID.

    `gateway_addresses` holds at most one CA a family.
    """

    name: str
    vsid: Vsid
    prefixes: tuple[Prefix, ...]
    gateway_addresses: tuple[CustomerAddress, ...]
    translation: Translation = Translation.ENCAP
    broadcast: bool = False
    """Whether broadcast and multicast are carried, by N-way unicast."""
    dhcp: bool = True
    """Whether DHCPv4 requests are answered from the records."""
    router_advertisements: bool = True
    """Whether router solicitations are answered."""


class IkeIdentity(msgspec.Struct, frozen=True):
    """Who we and the site's peer say we are, and the files with what proves it.

    We sign with the private key where there is one, else by the shared secret. The
    peer has to show a certificate where authorities are named, else the shared secret.
    """

    local_id: str
    remote_id: str
    psk_file: Path | None = None
    certificate_file: Path | None = None
    """Our own certificate, PEM, with those between it and its authority."""
    key_file: Path | None = None
    authority_files: tuple[Path, ...] = ()
    """The only authorities that may vouch for this site's peer."""
    revocation_files: tuple[Path, ...] = ()


class Site(msgspec.Struct, frozen=True):
    """An on-premise network behind a tunnel. `peer` is None where the peer dials in from anywhere."""

    name: str
    gateway: str
    prefixes: tuple[Prefix, ...]
    peer: ProviderAddress | None
    ike: IkeIdentity
    local_prefixes: tuple[Prefix, ...] = ()
    """What the peer may reach here; empty: all of the tenant's subnets."""
    start: SiteStart = SiteStart.START
    ike_proposals: tuple[IkeProposal, ...] = MODERN_IKE
    esp_proposals: tuple[EspProposal, ...] = MODERN_ESP
    selectors: SelectorMode = SelectorMode.ALL
    lifetimes: Lifetimes = Lifetimes()
    liveness: float = 10.0
    """Seconds of silence, while we send, after which the peer is taken for dead."""
    force_udp: bool = False
    """ESP in UDP even where no NAT is on the path: for firewalls that drop protocol 50."""
    mtu: int | None = None
    """Of a customer's packet, in octets, where the path carries less than its first link."""


class Endpoint(msgspec.Struct, frozen=True):
    """One side of an access rule: at most one field is set, none means anywhere."""

    subnet: str | None = None
    site: str | None = None
    prefix: Prefix | None = None

    def __str__(self) -> str:
        if self.subnet is not None:
            return f"subnet:{self.subnet}"
        if self.site is not None:
            return f"site:{self.site}"
        return "any" if self.prefix is None else str(self.prefix)


class PortRange(msgspec.Struct, frozen=True, gc=False):
    """Destination ports, both ends included."""

    first: int
    last: int


class AccessRule(msgspec.Struct, frozen=True):
    """One rule of a tenant; the first that matches a packet decides.

    `protocol` is an IP protocol number, or None for any; `ports` is empty for any.
    """

    name: str
    action: Action
    source: Endpoint = Endpoint()
    destination: Endpoint = Endpoint()
    protocol: int | None = None
    ports: tuple[PortRange, ...] = ()


class Limits(msgspec.Struct, frozen=True):
    """A tenant's share: a token bucket in bits per second and octets of burst."""

    rate: int
    burst: int


class Tenant(msgspec.Struct, frozen=True):
    """A routing domain: subnets that route to each other and to nobody else."""

    name: str
    gateways: tuple[str, ...]
    """In order of preference."""
    subnets: tuple[VirtualSubnet, ...]
    records: tuple[LookupRecord, ...] = ()
    routes: tuple[CustomerRoute, ...] = ()
    """Besides those to its subnets and sites, which follow from their prefixes."""
    sites: tuple[Site, ...] = ()
    access: tuple[AccessRule, ...] = ()
    limits: Limits | None = None
    leases: int | None = None
    """So many provider addresses of a gateway's pools it may hold at once; None: a share of them."""
    rdid: str | None = None


class ProviderHost(msgspec.Struct, frozen=True):
    """A machine with VMs: its addresses in the underlay, and the tenants that it may claim and send for."""

    name: str
    provider_addresses: tuple[ProviderAddress, ...]
    tenants: tuple[str, ...]
    flow_id: FlowIdMode = FlowIdMode.HASH
    pools: tuple[Prefix, ...] = ()
    """What its VMs' own provider addresses are leased from, those that are rewritten. Hosts of one link may
    share a pool: then a VM keeps its address when it moves between them."""


class ProviderGateway(msgspec.Struct, frozen=True):
    """A gateway's addresses in the underlay."""

    name: str
    provider_addresses: tuple[ProviderAddress, ...]
    pools: tuple[Prefix, ...] = ()
    """What is leased for CAs that have no provider address of their own, for rewritten VMs to reach them."""


class Network(msgspec.Struct, frozen=True):
    """The whole network's configuration: the same on every node."""

    hosts: tuple[ProviderHost, ...] = ()
    gateways: tuple[ProviderGateway, ...] = ()
    tenants: tuple[Tenant, ...] = ()


class Underlay(msgspec.Struct, frozen=True):
    """The datacenter side of this node. Without `interfaces` or `mtu`, the machine is asked."""

    provider_addresses: tuple[ProviderAddress, ...]
    interfaces: tuple[str, ...] = ()
    mtu: int | None = None


class RecordsKept(StrEnum):
    """Which records a host keeps of its tenants."""

    ALL = "all"
    USED = "used"
    """Those that it is taught because it uses them."""


class HostPort(msgspec.Struct, frozen=True):
    """A VM's port as a host's configuration names it: its virtual subnet may be known later only."""

    interface: str
    tenant: str
    subnet: str
    mac: MacAddress
    addresses: tuple[CustomerAddress, ...]


class Port(msgspec.Struct, frozen=True):
    """A VM's port on a host: the interface, and the one MAC and the addresses it may use."""

    interface: str
    tenant: str
    vsid: Vsid
    mac: MacAddress
    addresses: tuple[CustomerAddress, ...]


class OpenVswitch(msgspec.Struct, frozen=True):
    """The Open vSwitch bridge that a host's VMs are on, and where its daemons listen."""

    bridge: str = DEFAULT_BRIDGE
    run_directory: Path = DEFAULT_RUN_DIRECTORY


class HostRole(msgspec.Struct, frozen=True):
    """The role of an NVE with VM ports. `name` is that of its `[[provider_host]]`."""

    name: str
    ports: tuple[HostPort, ...] = ()
    driver: str = "builtin"
    records: RecordsKept = RecordsKept.ALL
    openvswitch: OpenVswitch = OpenVswitch()

    def ports_in(self, network: Network) -> tuple[Port, ...]:
        """The ports whose virtual subnets are in a network that this host may hold them of."""
        tenants = {tenant.name: tenant for tenant in network.tenants}
        allowed = {name for host in network.hosts if host.name == self.name for name in host.tenants}
        return tuple(
            Port(port.interface, port.tenant, subnet.vsid, port.mac, port.addresses)
            for port in self.ports
            if port.tenant in allowed and port.tenant in tenants
            for subnet in tenants[port.tenant].subnets
            if subnet.name == port.subnet
        )


class FastPathSettings(msgspec.Struct, frozen=True):
    """How the fast path is attached. Pinned, it outlives the process, and carries on while none runs."""

    pinned: bool = False
    mode: FastPathMode = FastPathMode.AUTO


class Appliance(msgspec.Struct, frozen=True):
    """One node: its name and roles, and the network that it is part of."""

    name: str
    state: Path
    engine: Engine
    underlay: Underlay | None
    gateway: bool
    lookup: LookupSettings | None
    host: HostRole | None
    network: Network
    site_addresses: tuple[ProviderAddress, ...] = ()
    """Where sites' peers dial us; the underlay's provider addresses unless named."""
    lookup_access: LookupAccess | None = None
    """Where records and the network come from; None: from this file, or from the store beside us."""
    api: ApiSettings | None = None
    """Where the operating interface is, if it has its own address; None: at the lookup service's, if here."""
    log: LogFormat = LogFormat.CONSOLE
    user: str | None = None
    """Who root becomes to run this; None: nobody else."""
    fastpath: FastPathSettings = FastPathSettings()

    @property
    def takes_part(self) -> bool:
        """Whether records come from the lookup service, rather than from this file alone."""
        return self.lookup is not None or self.lookup_access is not None

    @property
    def wants_fastpath(self) -> bool:
        """Whether packets go by the fast path here, at least where that can be."""
        on_bridge = self.host is not None and self.host.driver == "openvswitch"
        return self.gateway and self.engine is not Engine.PYTHON and not on_bridge

    @property
    def pools(self) -> tuple[Prefix, ...]:
        """What the provider addresses are leased from that are held at this node, by the network it has."""
        network, host = self.network, self.host
        of_gateway = [each.pools for each in network.gateways if self.gateway and each.name == self.name]
        of_host = [each.pools for each in network.hosts if host is not None and each.name == host.name]
        return tuple(pool for pools in of_gateway + of_host for pool in pools)
