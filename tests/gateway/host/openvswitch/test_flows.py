"""What the flows of a host do with frames, on a switch of a few lines."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Directory, Put
from gateway.forwarding.pipeline import Forwarder
from gateway.host.openvswitch.flows import network_flows, vm_flows
from gateway.host.openvswitch.openflow import HEARD, Flows, difference
from gateway.host.openvswitch.view import Attached, View
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import AccessRule, Action, LookupRecord, Network, Translation
from tests import networks as n
from tests.gateway.host.openvswitch.switch import Output, Switch, fields_of

LISTENER, TUNNEL = 1000, 1004
WEB5 = n.port("red", "web", 5)


class Bridge:
    """The flows of hv1, with a GRE port over IPv4 alone."""

    def __init__(
        self,
        net: Network | None = None,
        redirects: dict[tuple[Vsid, bytes], ProviderAddress] | None = None,
        known: Directory | None = None,
    ) -> None:
        self.forwarder: Forwarder = n.host("hv1", net, known=known)
        self.numbers = {key: number for number, key in enumerate(self.forwarder.node.ports, start=1)}
        view = View(
            provider_addresses=self.forwarder.node.provider_addresses,
            mtu=1500,
            tunnels={4: TUNNEL},
            listener=LISTENER,
            tables=self.forwarder.tables,
            directory=self.forwarder.directory,
            ports={key: Attached(port, self.numbers[key]) for key, port in self.forwarder.node.ports.items()},
            residence=self.forwarder.moves.residence,
            redirects=redirects or {},  # type: ignore[arg-type]
        )
        self.flows = network_flows(view)
        for vsid, mac in {(record.vsid, record.mac) for record in view.directory}:
            self.flows |= vm_flows(view, vsid, mac)
        self.switch = Switch(self.flows)

    def send(self, frame: Packet) -> list[Output]:
        """Have red's web5 send a frame."""
        return self.switch.receive(fields_of(bytes(frame), self.numbers[WEB5]))

    def receive(self, frame: Packet, sender: str, subnet: str = "web", tenant: str = "red") -> list[Output]:
        """Bring a frame across the underlay."""
        fields = fields_of(bytes(frame), TUNNEL)
        fields |= {"tun_id": n.VSIDS[tenant, subnet] << 8 | 0x5A, "tun_src": int.from_bytes(n.pa(sender))}
        return self.switch.receive(fields)


def to_node(outputs: list[Output], name: str) -> dict[str, int]:
    """The one packet that goes to a node, as fields."""
    (output,) = outputs
    assert output.port == TUNNEL
    assert output.fields["tun_dst"] == int.from_bytes(n.pa(name))
    return output.fields


def false(source: str, sender: tuple[str, int], to: tuple[str, int]) -> Packet:
    """A packet from an address that the sender has not."""
    frame = n.frame("red", sender, to)
    frame[IP].src = source
    return frame


def test_packet_to_another_subnet_is_routed_to_its_host() -> None:
    fields = to_node(Bridge().send(n.frame("red", ("web", 5), ("db", 5))), "hv2")

    assert fields["tun_id"] >> 8 == n.VSIDS["red", "db"]
    assert fields["dl_dst"] == int.from_bytes(n.mac("red", "db", 5))
    assert fields["dl_src"] == int.from_bytes(n.router_mac("red", "db"))
    assert fields["nw_ttl"] == 63


def test_packet_to_a_neighbour_is_switched_as_it_is() -> None:
    frame = n.frame("red", ("web", 5), ("web", 6))
    fields = to_node(Bridge().send(frame), "hv2")

    assert fields["tun_id"] >> 8 == n.VSIDS["red", "web"]
    assert (fields["dl_dst"], fields["nw_ttl"]) == (int.from_bytes(n.mac("red", "web", 6)), 64)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(n.frame("red", ("web", 5), ("db", 5), ttl=1), id="end of a TTL"),
        pytest.param(n.frame("red", ("web", 5), ("db", 5), upper=ICMP() / Raw(bytes(1440))), id="too large"),
        pytest.param(n.frame("red", ("web", 5), ("db", 99)), id="nobody's address"),
        pytest.param(n.frame("red", ("web", 5), ("db", 1)), id="the gateway's own address"),
        pytest.param(n.arp_request("red", ("web", 5), "10.0.1.99"), id="ARP for nobody"),
        pytest.param(n.solicitation("red", ("web", 5), n.ca("web", 6, 6)), id="IPv6 neighbour"),
        pytest.param(
            Ether(src=str(WEB5[1]), dst=n.BROADCAST)
            / IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / Raw(bytes(250)),
            id="DHCP",
        ),
    ],
)
def test_what_flows_cannot_decide_goes_to_the_gateway_as_it_is(frame: Packet) -> None:
    fields = to_node(Bridge().send(frame), "edge-1")

    assert fields["tun_id"] >> 8 == n.VSIDS["red", "web"]
    before = fields_of(bytes(frame), 0)
    assert {name: fields[name] for name in before if name != "in_port"} == {
        name: value for name, value in before.items() if name != "in_port"
    }


@pytest.mark.parametrize("to", [("db", 5), ("web", 6)], ids=["routed", "switched"])
@pytest.mark.parametrize("is_claimed_here", [False, True], ids=["elsewhere", "by mistake at this host"])
def test_packet_to_a_rewritten_vm_goes_to_the_gateway_as_it_is(
    to: tuple[str, int], is_claimed_here: bool
) -> None:
    rewritten = LookupRecord(
        vsid=Vsid(n.VSIDS["red", to[0]]),
        ca=CustomerAddress.parse(n.ca(*to)),
        mac=n.mac("red", *to),
        pa=n.pa("hv1") if is_claimed_here else ProviderAddress.parse("203.0.113.130"),
        host="hv1" if is_claimed_here else "hv2",
        translation=Translation.REWRITE,
    )
    known = n.directory(n.network())
    known.apply(Put(rewritten))
    frame = n.frame("red", ("web", 5), to)

    fields = to_node(Bridge(known=known).send(frame), "edge-1")

    assert fields["tun_id"] >> 8 == n.VSIDS["red", "web"]
    assert (fields["nw_ttl"], fields["dl_dst"]) == (64, fields_of(bytes(frame), 0)["dl_dst"])


def test_arp_for_a_rewritten_neighbour_is_answered_as_for_any_other() -> None:
    known = n.directory(n.network())
    for record in n.records("red"):
        if record.vsid == n.VSIDS["red", "web"] and record.mac == n.mac("red", "web", 6):
            known.apply(Put(msgspec.structs.replace(record, translation=Translation.REWRITE)))

    (output,) = Bridge(known=known).send(n.arp_request("red", ("web", 5), n.ca("web", 6)))

    assert output.fields["arp_sha"] == int.from_bytes(n.mac("red", "web", 6))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(n.frame("red", ("web", 6), ("db", 5)), id="another's MAC"),
        pytest.param(false("10.0.1.6", ("web", 5), ("db", 5)), id="another's address"),
        pytest.param(false("10.0.1.1", ("web", 5), ("db", 5)), id="the gateway's address"),
        pytest.param(n.arp_request("red", ("web", 5), "10.0.1.1", source="10.0.1.6"), id="ARP as another"),
        pytest.param(Ether(src=str(WEB5[1]), dst=n.BROADCAST, type=0x88CC), id="not IP"),
    ],
)
def test_vm_is_held_to_its_mac_and_addresses(frame: Packet) -> None:
    assert Bridge().send(frame) == []


def test_arp_is_answered_from_the_directory() -> None:
    (output,) = Bridge().send(n.arp_request("red", ("web", 5), n.ca("web", 6)))

    fields = output.fields
    assert output.port == fields["in_port"]
    assert (fields["arp_op"], fields["dl_dst"]) == (2, int.from_bytes(WEB5[1]))
    assert fields["dl_src"] == int.from_bytes(n.router_mac("red", "web"))
    assert fields["arp_sha"] == int.from_bytes(n.mac("red", "web", 6))
    assert fields["arp_spa"] == int.from_bytes(CustomerAddress.parse(n.ca("web", 6)))
    assert fields["arp_tpa"] == int.from_bytes(CustomerAddress.parse(n.ca("web", 5)))


def test_probe_of_ones_own_address_stays_silent() -> None:
    assert Bridge().send(n.arp_request("red", ("web", 5), n.ca("web", 5), source="0.0.0.0")) == []


def test_announcements_are_heard_with_the_ports_number_and_go_nowhere_else() -> None:
    bridge = Bridge()
    own = str(WEB5[1])
    reply = Ether(src=own, dst=n.BROADCAST) / ARP(op=2, hwsrc=own, psrc=n.ca("web", 5), pdst=n.ca("web", 6))
    for frame in (n.arp_request("red", ("web", 5), n.ca("web", 5)), reply):
        (output,) = bridge.send(frame)
        assert output.port == LISTENER
        heard = output.fields["dl_dst"].to_bytes(6)
        assert (heard[:4], int.from_bytes(heard[4:])) == (HEARD, bridge.numbers[WEB5])


@pytest.mark.parametrize("sender", ["hv2", "edge-1"])
def test_packet_from_the_tenants_nodes_reaches_the_vm(sender: str) -> None:
    bridge = Bridge()

    (output,) = bridge.receive(n.frame("red", ("web", 6), ("web", 5)), sender)

    assert output.port == bridge.numbers[WEB5]


def test_packet_from_elsewhere_or_in_the_gateways_name_does_not() -> None:
    bridge = Bridge()
    frame = n.frame("red", ("web", 6), ("web", 5))
    fields = fields_of(bytes(frame), TUNNEL) | {"tun_id": n.VSIDS["red", "web"] << 8, "tun_src": 1}
    assert bridge.switch.receive(fields) == []
    assert bridge.receive(false("10.0.1.1", ("web", 6), ("web", 5)), "hv2") == []
    assert bridge.receive(false("8.8.8.8", ("web", 6), ("web", 5)), "hv2") == []


def test_packet_for_a_vm_that_has_left_is_sent_on_but_not_back() -> None:
    key = n.port("red", "web", 6)
    bridge = Bridge(redirects={key: n.pa("hv2")})
    frame = n.frame("red", ("web", 5), ("web", 6))

    fields = to_node(bridge.receive(frame, "edge-1"), "hv2")
    assert (fields["tun_id"] >> 8, fields["nw_ttl"]) == (n.VSIDS["red", "web"], 63)
    assert bridge.receive(frame, "hv2") == []


def test_tenant_with_access_rules_is_judged_by_its_gateway() -> None:
    rule = AccessRule(name="web", action=Action.ALLOW)
    bridge = Bridge(n.network(n.tenant("red", access=(rule,))))
    frame = n.frame("red", ("web", 5), ("db", 6))

    assert to_node(bridge.send(frame), "edge-1")["nw_ttl"] == 64
    inner = n.frame("red", ("web", 6), ("web", 5))
    assert to_node(bridge.receive(inner, "hv2"), "edge-1")["tun_id"] >> 8 == n.VSIDS["red", "web"]
    (output,) = bridge.receive(inner, "edge-1")
    assert output.port == bridge.numbers[WEB5]


def test_difference_makes_one_set_of_flows_of_another() -> None:
    before: Flows = {
        "table=0,priority=1": "drop",
        "table=0,priority=2": "output:1",
        "table=1,priority=1": "drop",
    }
    after: Flows = {
        "table=0,priority=1": "drop",
        "table=0,priority=2": "output:2",
        "table=2,priority=1": "drop",
    }

    assert difference(before, after, 7) == [
        "delete_strict table=1,priority=1",
        "add cookie=0x7,table=0,priority=2,actions=output:2",
        "add cookie=0x7,table=2,priority=1,actions=drop",
    ]
