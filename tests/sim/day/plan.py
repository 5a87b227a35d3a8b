"""Who is there on the simulated day, and what their configuration files say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import ip_network

import msgspec

from gateway.forwarding.verdicts import PortKey
from gateway.packets import ethernet, ip
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.facts import UDP

PROVIDER = {
    "edge-1": "192.0.2.254",
    "hv1": "198.51.100.11",
    "hv2": "203.0.113.12",
    "device-red": "203.0.113.7",
    "device-blue": "100.64.0.8",
}
POOLS = {
    "edge-1": ("192.0.2.64/26", "2001:db8:fe::/112"),
    "hv1": ("198.51.100.128/26", "2001:db8:11::/112"),
    "hv2": ("203.0.113.128/26", "2001:db8:12::/112"),
}
NAT = "203.0.113.50"
TENANTS = {"red": (5001, 5002), "blue": (6001, 6002)}
FLOWS = 16
ADDRESSES = {"web": "10.0.1.5", "db": "10.0.2.5", "office": "172.16.0.5"}

REWRITTEN = ("red", "web")
"""The one virtual subnet that is not encapsulated."""

Stream = tuple[str, str, str]
"""Tenant, and between which of its VMs: web, db and the site's office."""

STREAMS: list[Stream] = [
    (tenant, source, target)
    for tenant in TENANTS
    for source, target in (("web", "db"), ("web", "office"), ("office", "db"))
] + [("red", "db", "web"), ("red", "office", "web")]


class Vm(msgspec.Struct, frozen=True):
    """A VM: its port and its address."""

    tenant: str
    name: str
    key: PortKey
    ca: CustomerAddress

    def pa(self, host: str) -> ProviderAddress:
        """By which provider address it is reached at a host."""
        if (self.tenant, self.name) == REWRITTEN:
            return ProviderAddress(ip_network(POOLS[host][0])[1].packed)
        return ProviderAddress.parse(PROVIDER[host])

    def frame(self, target: CustomerAddress, flow: int, number: int) -> bytes:
        """A numbered datagram to somebody else, by way of the gateway of its subnet."""
        header = EthernetHeader(gateway_mac(self.key[0]), self.key[1], ethernet.IPV4).encode()
        ports = (1024 + flow).to_bytes(2) + (9).to_bytes(2)
        return header + ip.build(
            self.ca, target, UDP, ports + (16 + 24).to_bytes(2) + bytes(2) + number.to_bytes(8) + bytes(24)
        )


def vms() -> dict[tuple[str, str], Vm]:
    """All VMs, by tenant and name."""
    found = {}
    for number, (tenant, (web, db)) in enumerate(TENANTS.items()):
        for name, vsid in (("web", web), ("db", db), ("office", web + 2000)):
            mac = MacAddress(bytes((2, 0, 0, number, len(name), 5)))
            key = (Vsid(vsid), mac)
            found[tenant, name] = Vm(tenant, name, key, CustomerAddress.parse(ADDRESSES[name]))
    return found


def _pools(node: str) -> str:
    return f"pools = {json.dumps(POOLS[node])}\n"


AS_EDGE = f"""[appliance]
name = "edge-1"
[underlay]
provider_addresses = ["192.0.2.254"]
[lookup]
[gateway]
{_pools("edge-1")}"""


def datacenter(extra: str = "") -> str:
    """The network, with more tables after it."""
    tenants = ", ".join(f'"{tenant}"' for tenant in TENANTS)
    lines = [
        f"""[[provider_host]]
name = "{host}"
provider_addresses = ["{PROVIDER[host]}"]
tenants = [{tenants}]
{_pools(host)}"""
        for host in ("hv1", "hv2")
    ]
    for tenant, (web, db) in TENANTS.items():
        peer = "any" if tenant == "blue" else PROVIDER["device-red"]
        start = "respond" if tenant == "blue" else "start"
        limits = '[tenant.limits]\nrate = "1 Mbit/s"\n' if tenant == "blue" else ""
        translation = "rewrite" if (tenant, "web") == REWRITTEN else "encap"
        lines.append(f'''[[tenant]]
name = "{tenant}"
gateways = ["edge-1"]
{limits}[[tenant.subnet]]
name = "web"
vsid = {web}
prefixes = ["10.0.1.0/24", "fd00:1::/64"]
translation = "{translation}"
[[tenant.subnet]]
name = "db"
vsid = {db}
prefixes = ["10.0.2.0/24"]
[[tenant.site]]
name = "office"
gateway = "edge-1"
prefixes = ["172.16.0.0/16"]
peer = "{peer}"
start = "{start}"
[tenant.site.ike]
local_id = "edge.{tenant}.example"
remote_id = "office.{tenant}.example"
psk_file = "{tenant}.psk"''')
    return "\n".join(lines) + "\n" + extra


def device(name: str, vm: Vm) -> str:
    """A site's device: a gateway, and a host of one VM."""
    tenant, (vsid, mac) = vm.tenant, vm.key
    return f'''[gateway]
[host]
name = "{name}"
[[host.port]]
interface = "lan"
tenant = "{tenant}"
subnet = "office"
mac = "{mac}"
addresses = ["{vm.ca}"]
[[provider_host]]
name = "{name}"
provider_addresses = ["{PROVIDER[name]}"]
tenants = ["{tenant}"]
[[tenant]]
name = "{tenant}"
gateways = ["{name}"]
[[tenant.subnet]]
name = "office"
vsid = {vsid}
prefixes = ["172.16.0.0/16"]
[[tenant.record]]
ca = "{vm.ca}"
mac = "{mac}"
host = "{name}"
[[tenant.site]]
name = "dc"
gateway = "{name}"
prefixes = ["10.0.0.0/16"]
peer = "{PROVIDER["edge-1"]}"
start = "start"
[tenant.site.ike]
local_id = "office.{tenant}.example"
remote_id = "edge.{tenant}.example"
psk_file = "{tenant}.psk"
'''


def host(name: str, vms: Iterable[Vm]) -> str:
    """A host with a port for each VM of the datacenter."""
    ports = "".join(
        f'''[[host.port]]
interface = "{vm.tenant}-{vm.name}"
tenant = "{vm.tenant}"
subnet = "{vm.name}"
mac = "{vm.key[1]}"
addresses = ["{vm.ca}"]
'''
        for vm in vms
        if vm.name != "office"
    )
    return f'[host]\nname = "{name}"\nlookup = ["http://127.0.0.1:7637"]\n{ports}'
