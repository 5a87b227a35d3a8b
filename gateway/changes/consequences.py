"""What becomes of tunnels, VMs and whoever asks when a key of the configuration changes."""

from __future__ import annotations

from enum import StrEnum

from policies.ipsec import SiteStart
from policies.model import (
    AccessRule,
    CustomerRoute,
    HostPort,
    Limits,
    LookupRecord,
    ProviderGateway,
    ProviderHost,
    Tenant,
    VirtualSubnet,
)
from policies.services import Credential
from tunnels.ike.policy import PeerPolicy

NOTHING = "nothing is interrupted"
RESTART = "needs a restart"
AGAIN = "its tunnel is authenticated again"
ENDS = "its tunnel is deleted, and its peer dials again"
DELETED = "its tunnel is deleted at its peer"

# The sections of a file that only a start takes, but for what is listed in them.
_NODE = ("appliance", "underlay", "fastpath", "gateway", "host", "lookup", "api")
_LISTED_THERE = (".port", ".token", ".certificate")

# Keys of those sections that belong to the network, which is replaced whole.
_OF_NETWORK = ("gateway.pools",)


class Turn(StrEnum):
    """What has become of a key."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


_BEGINS = {
    SiteStart.START: "it is dialled at once",
    SiteStart.TRAP: "it is dialled when the first packet wants to go there",
    SiteStart.RESPOND: "it waits for its peer to dial",
}


def needs_restart(path: str) -> bool:
    """Whether only a start takes what stands at a path."""
    section = path.partition(".")[0].partition("[")[0]
    listed = path.removeprefix(section).partition("[")[0]
    return section in _NODE and listed not in _LISTED_THERE and path not in _OF_NETWORK


def for_site(path: str, turn: Turn, old: PeerPolicy | None, new: PeerPolicy | None) -> str:
    """Return what comes of a difference in a site, by what its peer is held to; None: nobody here dials."""
    if old is None and new is None:
        return "another gateway dials it" if turn is not Turn.CHANGED else NOTHING
    if new is None:
        return DELETED
    if old is None:
        return _BEGINS[new.start]
    if old == new or path.endswith("].mtu"):
        return NOTHING
    return of_new_terms(new)


def of_new_terms(policy: PeerPolicy) -> str:
    """Return what comes of it where a peer is held to something else."""
    may_dial = policy.remote_address is not None and policy.start is not SiteStart.RESPOND
    return AGAIN if may_dial else ENDS


def in_general(path: str, turn: Turn, owner: object) -> str:
    """Return what comes of a difference in anything but a site; the owner is what is listed there."""
    if path in _OF_NETWORK:
        return _in_what_is_listed(owner, Turn.CHANGED, path.rpartition(".")[2])
    if path.endswith(("].access", "].route", "].site", "].subnet", "].record")) or "[" not in path:
        return "the first rule that matches decides" if path.endswith(".access") else NOTHING
    if not path.endswith("]"):
        turn = Turn.CHANGED  # of the owner, whatever has become of a key in it
    return _in_what_is_listed(owner, turn, path.rpartition(".")[2])


def _in_what_is_listed(owner: object, turn: Turn, key: str) -> str:
    match owner, turn:
        case (Limits(), _) | (Tenant(), _) if key in ("limits", "rate", "burst"):
            return "its packets are held to that rate from now on"
        case Tenant(), Turn.ADDED:
            return "it is carried from now on"
        case Tenant(), Turn.REMOVED:
            return "its packets are dropped, its records and counters forgotten"
        case VirtualSubnet(), Turn.REMOVED:
            return "its VMs are cut off, its records and counters forgotten"
        case VirtualSubnet(), Turn.CHANGED if key == "vsid":
            return "its VMs' packets are carried by another VSID, and its counters begin anew"
        case VirtualSubnet(), Turn.CHANGED if key == "translation":
            return "VMs that are registered from now on are carried so, those that are there as before"
        case VirtualSubnet(), Turn.ADDED:
            return "it is carried from now on"
        case HostPort(), Turn.ADDED:
            return "its VM is served"
        case HostPort(), Turn.REMOVED:
            return "its VM is cut off, and its interface put back as it was"
        case HostPort(), _:
            return "its port is closed and opened anew"
        case Credential(), Turn.ADDED:
            return "it may ask from now on"
        case Credential(), Turn.REMOVED:
            return "it may not ask any more, and what it watches ends"
        case Credential(), _:
            return "it may ask by that from now on"
        case ProviderHost(), Turn.CHANGED if key == "pools":
            return (
                "its rewritten VMs get other provider addresses for those that are gone, and packets follow;"
                " they are cut off where no pool of the family is left"
            )
        case ProviderGateway(), Turn.CHANGED if key == "pools":
            return "what is leased of a pool that is gone is leased anew, for the next packet to it"
        case Tenant(), Turn.CHANGED if key == "leases":
            return "leases that it has stay, and it gets more only below that number"
        case LookupRecord(), Turn.CHANGED if key == "translation":
            return "its packets are carried so from now on"
        case LookupRecord(), Turn.REMOVED:
            return "packets to it are dropped"
        case LookupRecord(), _:
            return "packets to it go there from now on"
        case CustomerRoute(), _:
            return "packets go by it from now on" if turn is not Turn.REMOVED else "packets go elsewhere"
        case AccessRule(), _:
            return "packets are judged by the rules as they are then, those of open connections too"
        case ((ProviderHost() | ProviderGateway()), Turn.REMOVED):
            return "nothing is taken from it any more"
        case ((ProviderHost() | ProviderGateway()), Turn.ADDED):
            return "packets are sent to it and taken from it"
        case (_, _) if key == "tenants":
            return "it may hold VMs of those from now on"
        case (_, _) if key == "provider_addresses":
            return "packets are sent there and taken from there from now on"
    return NOTHING
