"""What flows decide, the builtin pipeline decides alike; the rest they leave to the tenant's gateway."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis
from hypothesis import strategies as st

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Drop, PortKey, ToPort, ToUnderlay, Verdict
from gateway.host.openvswitch.flows import network_flows, vm_flows
from gateway.host.openvswitch.view import Attached, View, is_encapsulated
from gateway.packets import ip, nvgre
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.errors import MalformedPacket
from policies.model import Translation
from tests.fuzz.mutation import INPUTS
from tests.gateway.host.openvswitch.switch import Output, Switch, fields_of
from tests.properties.frames import Sent, throw
from tests.properties.worlds import World, generate

LISTENER = 1000
TUNNELS = {4: 1004, 6: 1006}

# Nobody but the switch may stop these; a gateway would have to trust the host.
AT_THE_PORT = {DropReason.SPOOFED_SOURCE, DropReason.VLAN_TAGGED, DropReason.NOT_IP, DropReason.UNKNOWN_VSID}

# What a gateway has sent on has been judged by it, and is not judged again.
JUDGED = {DropReason.ACCESS_DENIED, DropReason.RATE_LIMITED, DropReason.ORPHAN_FRAGMENT}

Delivery = tuple[str, tuple[bytes, int] | PortKey, int, int, int]
"""To a port or a provider address: the VSID or port, both MACs, and the hop limit."""


class Bridge:
    """A host of a world on Open vSwitch."""

    def __init__(self, forwarder: Forwarder) -> None:
        node = forwarder.node
        self.numbers = {key: number for number, key in enumerate(node.ports, start=1)}
        self.view = View(
            provider_addresses=node.provider_addresses,
            mtu=node.underlay_mtu,
            tunnels={address.version: TUNNELS[address.version] for address in node.provider_addresses},
            listener=LISTENER,
            tables=forwarder.tables,
            directory=forwarder.directory,
            ports={
                key: Attached(port, self.numbers[key])
                for key, port in node.ports.items()
                if is_encapsulated(port, forwarder.tables, forwarder.directory)
            },
            residence=forwarder.moves.residence,
        )
        flows = network_flows(self.view)
        for vsid, mac in {(record.vsid, record.mac) for record in forwarder.directory}:
            flows |= vm_flows(self.view, vsid, mac)
        self.switch = Switch(flows)

    def hears(self, sent: Sent) -> bool:
        """Whether a frame comes to the bridge: at one of its ports, or in NVGRE."""
        return sent.port in self.view.ports or sent.outer is not None

    def receive(self, sent: Sent) -> list[Output]:
        if sent.port is not None:
            return self.switch.receive(fields_of(sent.data, self.numbers[sent.port]))
        outer = sent.outer
        assert outer is not None
        version = 4 if len(outer.source) == 4 else 6
        fields = fields_of(sent.data[nvgre.HEADER_LENGTH :], TUNNELS[version])
        fields |= {"tun_id": int.from_bytes(sent.data[4:8])}
        fields |= {"tun_src" if version == 4 else "tun_src6": int.from_bytes(outer.source)}
        return self.switch.receive(fields)

    def deliveries(self, outputs: list[Output]) -> list[Delivery]:
        keys = {number: key for key, number in self.numbers.items()}
        found: list[Delivery] = []
        for output in outputs:
            fields = output.fields
            macs = fields["dl_dst"], fields["dl_src"], fields.get("nw_ttl", 0)
            if output.port in keys:
                found.append(("port", keys[output.port], *macs))
            elif output.port != LISTENER:
                version = 4 if output.port == TUNNELS[4] else 6
                address = fields["tun_dst" if version == 4 else "tun_dst6"].to_bytes(
                    4 if version == 4 else 16
                )
                found.append(("tunnel", (ProviderAddress(address), fields["tun_id"] >> 8), *macs))
        return found


def decided(verdict: Verdict) -> list[Delivery]:
    """What the builtin pipeline sends."""
    found: list[Delivery] = []
    for emission in verdict.emissions:
        if isinstance(emission, ToPort):
            frame, kind, where = emission.frame, "port", emission.port
            found.append((kind, where, *_seen(frame)))
        elif isinstance(emission, ToUnderlay):
            frame = emission.payload[nvgre.HEADER_LENGTH :]
            found.append(("tunnel", (emission.destination, emission.vsid), *_seen(frame)))
    return found


def _seen(frame: bytes) -> tuple[int, int, int]:
    hop_limit = 0
    if frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
        hop_limit = ip.decode_untrusted(frame[14:]).hop_limit
    return int.from_bytes(frame[:6]), int.from_bytes(frame[6:12]), hop_limit


def check(world: World, sent: Sent, bridge: Bridge, now: float, seen: Counter[str]) -> None:
    forwarder = world.nodes[sent.node]
    try:
        outputs = bridge.receive(sent)
    except MalformedPacket:
        return
    if sent.port is not None:
        vsid, frame = sent.port[0], sent.data
        verdict = forwarder.from_port(sent.port, frame, now)
    elif sent.outer is not None:
        vsid, frame = Vsid(int.from_bytes(sent.data[4:7])), sent.data[nvgre.HEADER_LENGTH :]
        verdict = forwarder.from_underlay(sent.outer, sent.data, now)
    else:
        return
    reason = verdict.reason if isinstance(verdict, Drop) else None
    if reason in (DropReason.MALFORMED, DropReason.CONGESTION, DropReason.NOT_NVGRE):
        return
    wanted = [] if reason is not None else decided(verdict)
    deliveries = bridge.deliveries(outputs)
    if deliveries and sent.port is not None and _is_for_rewritten(world, bridge, vsid, frame):
        seen["for a rewritten VM"] += 1
    for delivery in deliveries:
        kind, where, *_ = delivery
        entry = world.tables.subnets[vsid]
        gateways = entry.domain.gateway_provider_addresses
        as_it_is = delivery[2:] == _seen(frame)
        if delivery in wanted:
            seen[f"as the pipeline: {kind}"] += 1
        elif kind == "tunnel" and as_it_is and where in {(address, vsid) for address in gateways}:
            assert reason not in AT_THE_PORT, (reason, delivery)
            seen["to the gateway"] += 1
        elif as_it_is and reason not in AT_THE_PORT and _is_by_another_record(bridge, vsid, delivery):
            seen["by another record of the VM"] += 1
        elif sent.outer is not None and sent.outer.source in gateways and reason in JUDGED:
            seen["judged by the gateway"] += 1
        else:
            raise AssertionError(f"{delivery} instead of {wanted or verdict}")
    if not any(output.port != LISTENER for output in outputs):
        domain = world.tables.subnets[vsid].domain if vsid in world.tables.subnets else None
        # Without a gateway that is reached, nobody does what flows cannot; groups come from gateways.
        if reason is None and domain and bridge.view.gateway_of(domain) and sent.outer is None:
            assert not bridge.view.is_judged_here(domain), f"nothing instead of {verdict}"
        seen[f"nothing: {reason or type(verdict).__name__}"] += 1


def _is_for_rewritten(world: World, bridge: Bridge, vsid: Vsid, frame: bytes) -> bool:
    """Whether a packet is for a VM that flows cannot reach but by the gateway."""
    if frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return False
    facts = ip.decode_untrusted(frame[14:])
    record = bridge.view.next_hop(world.tables.subnets[vsid].domain, CustomerAddress(facts.destination))
    return record is not None and record.translation is Translation.REWRITE


def _is_by_another_record(bridge: Bridge, vsid: Vsid, delivery: Delivery) -> bool:
    """Whether a frame is switched by one of the records of its MAC, where those disagree."""
    kind, where, mac, *_ = delivery
    view = bridge.view
    records = view.directory.find_by_mac(vsid, mac.to_bytes(6))
    if kind == "port":
        return any(view.port_of(record) is not None for record in records)
    allowed = view.tables.subnets[vsid].domain.host_addresses
    return any(where == (record.pa, vsid) and record.pa in allowed for record in records)


def run(chance: random.Random, frames: int, seen: Counter[str]) -> None:
    world = generate(chance, encapsulating=0.7)
    hosts = {
        name: Bridge(world.nodes[name]) for name in sorted(world.bridges) if world.nodes[name].node.ports
    }
    for moment in range(frames):
        sent = throw(chance, world)
        if sent is not None and sent.node in hosts and hosts[sent.node].hears(sent):
            try:
                check(world, sent, hosts[sent.node], moment / 100, seen)
            except Exception as failure:
                failure.add_note(f"at {sent.node}: {sent.outer or sent.port}")
                failure.add_note(f"bytes.fromhex({sent.data.hex()!r})")
                raise


@hypothesis.given(chance=st.randoms(use_true_random=False))
def test_flows_decide_as_the_pipeline_does(chance: random.Random) -> None:
    run(chance, 10, Counter())


def test_every_outcome_of_flows_is_reached() -> None:
    seen: Counter[str] = Counter()
    for number in range(max(1, INPUTS // 500)):
        run(random.Random(f"7637 {number}"), 60, seen)

    assert {"as the pipeline: tunnel", "as the pipeline: port", "to the gateway"} <= seen.keys()
    assert "for a rewritten VM" in seen
    assert {"nothing: spoofed-source", "nothing: not-here", "nothing: vlan-tagged"} <= seen.keys()
