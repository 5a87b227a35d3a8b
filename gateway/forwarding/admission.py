"""Who may send a packet with which source: from the underlay, at a VM's port, and through a site's tunnel."""

from __future__ import annotations

from enum import Enum

from gateway.forwarding.directory import Directory
from policies.addresses import ROUTER_LINK_LOCAL, is_group_address
from policies.model import AddressHop, LookupRecord, Port, SiteHop, SubnetHop
from policies.tables import RoutingDomain, Tables

_UNSPECIFIED = frozenset((bytes(4), bytes(16)))
_LOOPBACK = bytes(15) + b"\x01"


class Admission(Enum):
    """What is thought of an inner source behind an outer one."""

    ADMITTED = "admitted"
    ELSEWHERE = "elsewhere"
    """From another host than its record says: a VM's first packets outrun the claim."""
    OF_A_GATEWAY = "of a gateway"
    """From a host, but only gateways send it: right if it has been sent on after a VM that has moved."""
    REFUSED = "refused"


def may_send(domain: RoutingDomain, outer_source: bytes) -> bool:
    """Whether a provider address is a host's or gateway's of the tenant: else nothing more is read."""
    return outer_source in domain.host_addresses or outer_source in domain.gateway_provider_addresses


def admit(
    domain: RoutingDomain,
    tables: Tables,
    directory: Directory,
    source: bytes,
    outer_source: bytes,
    *,
    to_group: bool,
) -> tuple[Admission, LookupRecord | None]:
    """Judge an inner source by the provider address that it came from.

    The source is looked up in the whole routing domain: hosts route, so a frame
    arrives in its destination's VSID with a source of another. `to_group` says
    that the frame is for a group MAC, as everything from the unspecified address
    is. Also returns the source's record, where there is one.
    """
    if is_group_address(source):
        return Admission.REFUSED, None
    # What lies behind a VM, such as a firewall, is sent by that VM.
    speaker, hop = domain.resolve(source)
    record = directory.find(hop.vsid, speaker) if isinstance(hop, SubnetHop) else None
    if outer_source in domain.gateway_provider_addresses:
        return Admission.ADMITTED, record
    if outer_source not in domain.host_addresses:
        return Admission.REFUSED, None
    if is_unspecified(source):
        return (Admission.ADMITTED if to_group else Admission.REFUSED), None
    if is_link_local(source):
        return (Admission.REFUSED if source == ROUTER_LINK_LOCAL else Admission.ADMITTED), None
    if isinstance(hop, SiteHop) or source in domain.gateway_addresses:
        return Admission.OF_A_GATEWAY, None
    if not isinstance(hop, SubnetHop) or is_martian(source):
        return Admission.REFUSED, None
    if record is not None and (
        record.pa == outer_source or outer_source in tables.provider_addresses_of.get(record.host, ())
    ):
        return Admission.ADMITTED, record
    return Admission.ELSEWHERE, record


def port_owns(
    port: Port, domain: RoutingDomain, mac: bytes, source: bytes, *, to_group: bool, on_link: bool
) -> bool:
    """Whether a frame's source MAC and IP address are the port's own.

    A VM that has no address yet may ask for one, or probe for it, from the
    unspecified address; such a frame is never for a single neighbour. Any
    link-local address but the router's may be used on the link. A VM that routes
    lead to, such as a firewall, sends for what lies behind it, but `on_link`, in ARP and
    neighbour discovery, it speaks for itself (RFC 4861 section 7.2.2).
    """
    if mac != port.mac:
        return False
    if source in port.addresses:
        return True
    if is_unspecified(source):
        return to_group
    if is_link_local(source):
        return source != ROUTER_LINK_LOCAL
    # A default route through a VM covers the groups too, and other addresses that are nobody's.
    if on_link or is_group_address(source) or is_martian(source):
        return False
    hop = domain.routes.lookup(source)
    return isinstance(hop, AddressHop) and hop.ca in port.addresses


def site_owns(domain: RoutingDomain, site: str, source: bytes) -> bool:
    """Whether a source address is one that packets from a site may have.

    The tenant's routes lead to it by this very site, which leaves out the gateway's
    addresses; where that is a default route, they lead to nobody's addresses too.
    """
    if is_group_address(source) or is_martian(source):
        return False
    _, hop = domain.resolve(source)
    return isinstance(hop, SiteHop) and hop.site == site


def is_martian(address: bytes) -> bool:
    """Whether no packet may cross a router with this as its source.

    RFC 1812 section 5.3.7 and RFC 3927 section 7 say so, and RFC 4291 sections 2.5.2, 2.5.3 and 2.5.6.
    """
    if len(address) == 4:
        return address[0] in (0, 127) or address[0] >= 240 or address[:2] == b"\xa9\xfe"
    return is_unspecified(address) or address == _LOOPBACK or is_link_local(address)


def is_unspecified(address: bytes) -> bool:
    """0.0.0.0 or ::, the source of someone without an address."""
    return address in _UNSPECIFIED


def is_link_local(address: bytes) -> bool:
    """An IPv6 address of fe80::/10; IPv4's 169.254.0.0/16 is no address of a tenant here."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
