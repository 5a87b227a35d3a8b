"""The FlowID: entropy for the underlay, where the receiver can bear it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.packet import Packet, Raw

from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import ToUnderlay, Verdict
from policies.model import AccessRule, Action, FlowIdMode, Network, ProviderHost
from tests import networks as n


def flow_id(verdict: Verdict) -> int:
    emission = n.only(verdict)
    assert isinstance(emission, ToUnderlay)
    return emission.payload[7]


def flow(port: int, version: int = 4, **fields: object) -> Packet:
    upper = UDP(sport=port, dport=53) / Raw(bytes(8))
    return n.frame("red", ("web", 5), ("db", 5), version=version, upper=upper, **fields)


@pytest.mark.parametrize("version", [4, 6])
def test_packets_of_one_flow_have_one_flow_id_in_every_process(version: int) -> None:
    one, other = n.gateway(), n.gateway()
    field = "ttl" if version == 4 else "hlim"

    ids = {
        flow_id(n.receive(forwarder, flow(1000, version, **{field: hops})))
        for forwarder in (one, other, one)
        for hops in (64, 63, 7)
    }

    assert len(ids) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_spread(version: int) -> None:
    forwarder = n.gateway()

    ids = {flow_id(n.receive(forwarder, flow(port, version))) for port in range(1000, 2000)}

    assert len(ids) > 200


def test_host_spreads_what_its_vms_send() -> None:
    host = n.host("hv1")

    ids = {flow_id(n.send(host, ("red", "web", 5), flow(port))) for port in range(1000, 1100)}

    assert len(ids) > 50


def with_zero(name: str) -> Network:
    """One host that matches the whole key."""
    net = n.network()
    hosts = tuple(
        ProviderHost(each.name, each.provider_addresses, each.tenants, FlowIdMode.ZERO)
        if each.name == name
        else each
        for each in net.hosts
    )
    return Network(hosts, net.gateways, net.tenants)


@pytest.mark.parametrize("pa_version", [4, 6])
def test_flow_id_is_zero_for_a_host_that_wants_it(pa_version: int) -> None:
    forwarder = n.gateway(with_zero("hv2"), pa_version=pa_version)

    assert {flow_id(n.receive(forwarder, flow(port))) for port in range(1000, 1100)} == {0}


def test_flow_id_is_a_hash_for_the_others() -> None:
    forwarder = n.gateway(with_zero("hv1"))

    assert len({flow_id(n.receive(forwarder, flow(port))) for port in range(1000, 1100)}) > 50


def test_answers_and_notices_have_no_flow() -> None:
    forwarder = n.gateway()

    request = n.arp_request("red", ("web", 5), n.ca("web", 6))
    assert flow_id(n.receive(forwarder, request)) == 0


@pytest.mark.parametrize("with_rules", [False, True])
def test_all_fragments_of_a_packet_go_one_way(with_rules: bool) -> None:
    """A later fragment has no ports, so the first's must not count (RFC 7637 section 4.1)."""
    access = (AccessRule("all", Action.ALLOW),) if with_rules else ()
    forwarder: Forwarder = n.gateway(n.network(n.tenant("red", access=access)))
    whole = n.frame("red", ("web", 5), ("db", 5), upper=UDP(sport=7, dport=9) / Raw(bytes(4000)))

    ids = {flow_id(n.receive(forwarder, whole.__class__(bytes(piece)))) for piece in fragment(whole, 1200)}

    assert len(ids) == 1


def test_fragments_that_the_gateway_makes_go_one_way() -> None:
    whole = n.frame("red", ("web", 5), ("db", 5), upper=UDP(sport=7, dport=9) / Raw(bytes(4000)))

    verdict = n.receive(n.gateway(), whole)

    assert len(verdict.emissions) > 2
    assert (
        len({emission.payload[7] for emission in verdict.emissions if isinstance(emission, ToUnderlay)}) == 1
    )


def test_flow_ids_that_arrive_do_not_matter() -> None:
    forwarder = n.gateway()
    outer = n.from_host("hv1")

    ids = {
        flow_id(forwarder.from_underlay(outer, n.nvgre("red", "web", flow(1000), flow_id=arriving), now=0))
        for arriving in range(0, 256, 5)
    }

    assert len(ids) == 1


@pytest.mark.parametrize("upper", [TCP(sport=1, dport=2, flags="S"), UDP(sport=1, dport=2)])
def test_flow_id_is_the_same_before_and_after_the_flow_is_known(upper: Packet) -> None:
    forwarder = n.gateway()
    frame = n.frame("red", ("web", 5), ("db", 5), upper=upper)
    assert IP in frame

    assert len({flow_id(n.receive(forwarder, frame)) for _ in range(3)}) == 1
