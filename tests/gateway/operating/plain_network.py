"""The network of tests.networks with pools, and Red's web rewritten: hosts and gateway alike can do both.

web5 198.51.100.130 at hv1, web6 203.0.113.130 at hv2; and of edge-1's pool
192.0.2.130 for db5, which is encapsulated, 192.0.2.131 for a server in seattle
"""

from __future__ import annotations

import msgspec

from gateway.forwarding.directory import Directory, Put, PutLease
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Lease, Network, Translation
from policies.tables import Tables
from tests import networks as n
from tests import rewriting

POOLS: dict[str, tuple[str, ...]] = {
    "hv1": ("198.51.100.128/26",),
    "hv2": ("203.0.113.128/26",),
    "edge-1": ("192.0.2.128/26",),
}
WEB5, WEB6 = "198.51.100.130", "203.0.113.130"
DB5, SEATTLE = "192.0.2.130", "192.0.2.131"


def pa(text: str) -> ProviderAddress:
    """A provider address."""
    return ProviderAddress.parse(text)


def network() -> Network:
    """Red and Blue, and everybody's pools."""
    return rewriting.network(n.network(), POOLS)


def directory(net: Network) -> Directory:
    """All VMs, and the leases that Red's rewritten ones use."""
    found = n.directory(net)
    rewrite(found, "red", 5, WEB5)
    rewrite(found, "red", 6, WEB6)
    found.apply(PutLease(Lease(pa(DB5), Vsid(5002), CustomerAddress.parse(n.ca("db", 5)), "edge-1")))
    found.apply(PutLease(Lease(pa(SEATTLE), Vsid(5001), CustomerAddress.parse(n.on_premise()), "edge-1")))
    return found


def rewrite(known: Directory, tenant: str, number: int, own: str) -> None:
    """Have a VM in web be rewritten from now on, in IPv4."""
    record = known.find(n.VSIDS[tenant, "web"], CustomerAddress.parse(n.ca("web", number)))
    if record is None:
        raise LookupError(number)
    known.apply(Put(msgspec.structs.replace(record, pa=pa(own), translation=Translation.REWRITE)))


def gateway() -> Forwarder:
    """The pipeline of edge-1."""
    return _forwarder("edge-1", None)


def host(name: str, known: Directory | None = None) -> Forwarder:
    """The pipeline of hv1 or hv2, with a port for each of its VMs."""
    return _forwarder(name, known)


def _forwarder(name: str, known: Directory | None) -> Forwarder:
    net, is_gateway = network(), name == "edge-1"
    node = Node(
        name=name,
        provider_addresses=(n.pa(name), n.pa(name, 6)),
        underlay_mtu=1500,
        is_gateway=is_gateway,
        ports={} if is_gateway else n.ports_of(name, net),
        host=None if is_gateway else name,
    )
    return Forwarder(node, Tables.compile(net), known if known is not None else directory(net))
