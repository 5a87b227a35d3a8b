"""How flows of OpenFlow 1.3 are written for Open vSwitch: their tables, what they match and what they do.

Registers: metadata is the VSID of the frame, reg0 the tenant's number, reg1 the VSID that a
route leads to, reg3 says whether a gateway sent it, reg4 whether it is too large for a tunnel.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.addresses import Address, Prefix, Vsid

Flows = dict[str, str]
"""Actions by match: a flow's table, priority and fields name it."""

CLASSIFY, SOURCE, ARP, REPLY, FORWARD, ROUTE, RECORD, SWITCH, GATEWAY, SENDER, INNER, DELIVER = range(12)

# A packet with a tag has this bit set in Open vSwitch's view of it.
UNTAGGED = "vlan_tci=0/0x1000"
GROUP = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
BROADCAST = "dl_dst=ff:ff:ff:ff:ff:ff"

# What may be no packet's source, and no route's destination.
GROUPS = ("ip,nw_{0}=224.0.0.0/4", "ip,nw_{0}=255.255.255.255", "ipv6,ipv6_{0}=ff00::/8")

# Frames for the agent carry the number of the port that they came from in their destination.
HEARD = bytes.fromhex("02697300")


def enter(vsid: Vsid, number: int, table: int) -> str:
    """Go on with a frame of a virtual subnet, and of the tenant with a number."""
    return f"load:{number}->NXM_NX_REG0[],load:{vsid:#x}->OXM_OF_METADATA[],{goto(table)}"


def goto(table: int) -> str:
    """Go on in a table."""
    return f"resubmit(,{table})"


def in_table(table: int, priority: int, fields: str) -> str:
    """Match packets in a table by some fields, before whatever has a lower priority there."""
    return f"table={table},priority={priority}" + (f",{fields}" if fields else "")


def source_is(address: Address) -> str:
    """Match the source of an IP packet."""
    return f"ip,nw_src={address}" if len(address) == 4 else f"ipv6,ipv6_src={address}"


def destination_is(address: Address) -> str:
    """Match the destination of an IP packet."""
    return f"ip,nw_dst={address}" if len(address) == 4 else f"ipv6,ipv6_dst={address}"


def prefix_is(prefix: Prefix, end: str) -> str:
    """Match what an end of an IP packet is in: `end` is "src" or "dst"."""
    return f"ip,nw_{end}={prefix}" if prefix.version == 4 else f"ipv6,ipv6_{end}={prefix}"


def difference(before: Mapping[str, str], after: Mapping[str, str], cookie: int) -> list[str]:
    """The lines of a bundle that make one set of flows of the other."""
    lines = [f"delete_strict {match}" for match in before if match not in after]
    for match, actions in after.items():
        if before.get(match) != actions:
            lines.append(f"add cookie={cookie:#x},{match},actions={actions}")
    return lines
