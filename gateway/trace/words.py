"""What becomes of a packet in words, and whose a provider address is."""

from __future__ import annotations

from collections import Counter

from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Answer,
    Awaited,
    Drop,
    Emission,
    Held,
    ToPort,
    ToProvider,
    ToSite,
    Verdict,
)
from gateway.packets import ip
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import LookupRecord
from policies.tables import Tables


def in_words(verdict: Verdict, tables: Tables) -> str:
    """Say what was decided, and by which way a packet goes on."""
    if isinstance(verdict, Drop):
        told = "; its sender is told by ICMP" if verdict.emissions else ""
        return f"dropped: {verdict.reason.value}{told}"
    if isinstance(verdict, Held):
        return f"held: it waits for a provider address, {_awaited_in_words(verdict.wanted)}"
    # The fragments of a packet differ at most in the length of the last.
    counts = Counter(_way_in_words(emission, tables) for emission in verdict.emissions)
    ways = "; ".join(way if count == 1 else f"{way}, {count} times" for way, count in counts.items())
    return f"{'answered' if isinstance(verdict, Answer) else 'forwarded'} {ways}"


def _awaited_in_words(wanted: Awaited) -> str:
    if isinstance(wanted, ProviderAddress):
        return f"until it is known whose {wanted} is"
    return f"one that stands for {wanted[1]}"


def _way_in_words(emission: Emission, tables: Tables) -> str:
    if isinstance(emission, ToPort):
        vsid, mac = emission.port
        return f"to the port of {mac} in {tables.subnets[vsid].name} here"
    if isinstance(emission, ToSite):
        return f"into the tunnel to {emission.site[1]}, {len(emission.packet)} octets before encryption"
    name = tables.subnets[emission.vsid].name
    if isinstance(emission, ToProvider):
        facts = ip.decode_untrusted(emission.packet)
        ends = f"from {ProviderAddress(facts.source)} to {ProviderAddress(facts.destination)}"
        return f"{ends}, rewritten, {name}, {facts.total_length} octets"
    octets = len(emission.payload)
    return (
        f"from {emission.source} to {emission.destination} in NVGRE, VSID {emission.vsid} ({name}),"
        f" {octets} octets behind the outer IP header"
    )


def whose(forwarder: Forwarder, pa: bytes) -> str:
    """Say whose a provider address is that stands for one CA alone."""
    holder, address = forwarder.directory.holder(pa), CustomerAddress(pa)
    if holder is None:
        owners = forwarder.tables.pools.lookup(pa)
        return f"{address} is nobody's, of {_pool_in_words(owners)}"
    entry = forwarder.tables.subnets.get(holder.vsid)
    tenant = f"tenant {entry.domain.name}" if entry is not None else f"another tenant, VSID {holder.vsid}"
    if isinstance(holder, LookupRecord):
        return f"{address} is {holder.ca} of {tenant}, at {holder.host}"
    return f"{address} stands for {holder.ca} of {tenant}, leased by {holder.node}"


def _pool_in_words(owners: frozenset[str] | None) -> str:
    return f"a pool of {', '.join(sorted(owners))}" if owners else "no pool"
