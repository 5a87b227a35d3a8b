"""Two isthmuses: what strongSwan's libipsec cannot show, which is ESP without UDP and long sequence numbers.

red-web1                                          seattle-server
    |                                                   |
   hv1 ------- underlay ------- internet ---(nat)--- seattle (isthmus run)
                  |
               edge-1 (isthmus run)
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from gateway.lab import echo, nodes, premises
from gateway.lab.capture import read_frames
from gateway.lab.namespaces import Namespace
from gateway.lab.topology import UPLINK, VM_INTERFACE, Plan, Site
from gateway.packets import ethernet, ip
from policies.errors import MalformedPacket
from tests.interop.strongswan import (
    EDGE,
    EDGE_ID,
    SERVER,
    VM,
    VM_SUBNETS,
    Gateway,
    Traffic,
    World,
    lost,
    site_named,
    transfers,
)

pytestmark = pytest.mark.netns

ESP, UDP = 50, 17
STAYED = "10.0.1.77"
ESP_HEADER = struct.Struct("!II")  # SPI, sequence number
NON_ESP_MARKER = 4


class Pair(World):
    """The datacenter's gateway, and one at the premises, which dials unless told otherwise."""

    def connect(
        self,
        *,
        family: int = 4,
        nat: premises.Nat | None = None,
        edge: dict[str, Any] | None = None,
        seattle: dict[str, Any] | None = None,
        moved: str | None = None,
    ) -> tuple[Gateway, Gateway]:
        """Start both, with more keys of each one's site.

        `moved` is an address out of the datacenter's subnet, with a prefix length, that the server has.
        """
        self.premises["seattle"] = self.internet.premises("seattle", nat, routed=False)
        self.put_secret("seattle.psk", "shared by both")
        gateway = self.start_gateway(site_named("seattle", **{"start": "respond", **(edge or {})}))
        own = self.plan.gateways[0].provider_addresses
        peer = next(each for each in own if (":" in each) == (family == 6))
        return gateway, self.add_device("seattle", peer, also=moved, others=seattle or {})

    def add_device(
        self,
        name: str,
        peer: str,
        prefixes: tuple[str, ...] = VM_SUBNETS,
        *,
        also: str | None = None,
        others: Mapping[str, Any] = MappingProxyType({}),
    ) -> Gateway:
        """Start an isthmus as the device of the premises, for these prefixes of the datacenter's.

        Its server has `also` another address, with a prefix length. Raises LabError.
        """
        place = self.premises[name]
        identities = {"local_id": f"{name}.example", "remote_id": EDGE_ID}
        datacenter = Site(
            tenant="red",
            name="datacenter",
            gateway=name,
            prefixes=prefixes,
            peer=peer,
            ike={**identities, "psk_file": f"{name}.psk"},
            others=others,
        )
        plan = premises.as_datacenter(place, "red", 5101, datacenter)
        if also is not None:
            interface = ipaddress.ip_interface(also)
            plan = with_another(plan, interface)
            place.server.ip(f"address add {interface.ip} dev {VM_INTERFACE}")
        file = self.directory / f"{name}.toml"
        file.write_text(nodes.configuration(plan, plan.gateways[0], state=self.directory / name))
        return self.start_device(name)

    def start_device(self, name: str) -> Gateway:
        """Start the premises' isthmus with the configuration that it has. Raises LabError."""
        command = nodes.run_command(self.directory / f"{name}.toml")
        process = self.start(name, self.premises[name].device, *command)
        process.wait_for(r"\bready\b")
        return Gateway(self, process, name)

    def give_red(self, node: str, tables: str) -> None:
        """Add to what a node's configuration says of Red, and have the node read it. Raises LabError."""
        file = self.directory / f"{node}.toml"
        blue = '[[tenant]]\nname = "blue"'
        file.write_text(file.read_text().replace(blue, f"{tables}\n{blue}"))
        self.isthmus("reload", node)

    def isthmus(self, command: str, node: str, *options: str) -> str:
        """Ask a running node as a person does, and return the answer. Raises LabError."""
        file = self.directory / f"{node}.toml"
        return self.node(node).run(sys.executable, "-m", "gateway.cli", command, str(file), *options).stdout


def with_another(plan: Plan, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> Plan:
    """Give the premises' server, and their network, another address and its prefix."""
    (lan,), (server,) = plan.subnets, plan.vms
    return msgspec.structs.replace(
        plan,
        subnets=(msgspec.structs.replace(lan, prefixes=(*lan.prefixes, str(interface.network))),),
        vms=(msgspec.structs.replace(server, addresses=(*server.addresses, str(interface))),),
    )


@pytest.fixture
def world(require_tools: Callable[..., None]) -> Iterator[Pair]:
    require_tools("ping")
    with Pair(underlay=(4, 6)) as world:
        yield world


def protocols(capture: Path) -> Counter[int]:
    """Count the IP protocols in a capture of an uplink; of UDP only what is on port 4500."""
    found: Counter[int] = Counter()
    for frame in read_frames(capture):
        try:
            facts = ip.decode_untrusted(frame[ethernet.HEADER_LENGTH :])
        except MalformedPacket:
            continue  # ARP, for instance
        if facts.protocol == ESP or 4500 in (facts.source_port, facts.destination_port):
            found[facts.protocol] += 1
    return found


def answered(machine: Namespace, target: str, octets: int) -> bool:
    """Whether a ping whose packet has so many octets, and must not be fragmented, is answered."""
    return "1 received" in ping_of(machine, target, octets)


def refused(machine: Namespace, target: str, octets: int) -> str:
    """Return what ping says of a packet that is not answered."""
    said = ping_of(machine, target, octets)
    assert "0 received" in said, said
    return said


def ping_of(machine: Namespace, target: str, octets: int) -> str:
    """Ping once with a packet of so many octets, whatever the machine knows of the path."""
    machine.ip("route flush cache")
    command = ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(octets - 28), target)
    return machine.run(*command, check=False).stdout


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_esp_is_a_protocol_of_its_own_where_no_nat_is_with_long_sequence_numbers(
    world: Pair, family: int
) -> None:
    gateway, device = world.connect(family=family, edge={"esp_proposals": ["aes256gcm16-x25519-esn"]})
    gateway.wait_until_up("seattle")
    device.wait_until_up("datacenter")
    (child,) = gateway.site("seattle").children
    assert "esn" in child.suite.split("-")
    assert not child.in_udp

    file = world.directory / "esp.pcap"
    capture = world.capture(world.premises["seattle"].device, UPLINK, file)
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert lost(world.server("seattle"), "fd00:1::5") == 0
    capture.stop()
    assert protocols(file) == {ESP: 12}
    assert transfers(world, world.vm("red-web1"), world.server("seattle"), SERVER, 5_000_000)


@pytest.mark.parametrize("behind_nat", [True, False], ids=["nat", "forced"])
def test_esp_is_in_udp_behind_a_nat_or_where_that_is_wanted(
    world: Pair, behind_nat: bool, require_tools: Callable[..., None]
) -> None:
    if behind_nat:
        require_tools("nft")
    wish = {} if behind_nat else {"force_udp": True}
    gateway, _ = world.connect(nat=world.nat if behind_nat else None, edge={"mtu": 1300}, seattle=wish)
    gateway.wait_until_up("seattle")
    (child,) = gateway.site("seattle").children
    assert child.in_udp
    assert child.mtu == 1300

    file = world.directory / "esp.pcap"
    capture = world.capture(world.premises["seattle"].device, UPLINK, file)
    assert lost(world.server("seattle"), VM) == 0
    capture.stop()
    assert protocols(file)[ESP] == 0
    assert protocols(file)[UDP] >= 6


def test_rekeys_of_raw_esp_lose_no_packet(world: Pair, require_tools: Callable[..., None]) -> None:
    require_tools("iperf3")
    often = {"lifetimes": {"child": "2 s", "ike": "3 s"}}
    gateway, device = world.connect(edge=often, seattle=often)
    gateway.wait_until_up("seattle")
    device.wait_until_up("datacenter")
    traffic = Traffic(world, world.server("seattle"), world.vm("red-web1"), VM, seconds=6)
    assert traffic.pings_lost() == 0
    assert traffic.slowest_second() > 0.5
    assert gateway.site("seattle").child_rekeys >= 2
    assert gateway.site("seattle").ike_rekeys >= 1


def test_child_sa_that_has_carried_its_packets_is_replaced_and_none_is_lost(world: Pair) -> None:
    gateway, device = world.connect(edge={"lifetimes": {"packets": 1000}})
    before = gateway.wait_until_up("seattle").children[0].inbound_spi
    device.wait_until_up("datacenter")
    assert lost(world.vm("red-web1"), SERVER, count=1200, interval=0.004) == 0
    site = gateway.site("seattle")
    assert site.child_rekeys == 1
    assert before not in [child.inbound_spi for child in site.children]


def test_first_packet_to_a_trapped_site_brings_its_tunnel_up(world: Pair) -> None:
    gateway, device = world.connect(seattle={"start": "trap"})
    assert gateway.site("seattle").state == "waiting"
    assert device.site("datacenter").state == "waiting"
    world.server("seattle").call(echo.reachable, VM, 1.0)
    device.wait_until_up("datacenter")
    assert lost(world.vm("red-web1"), SERVER) == 0


def test_removed_site_is_deleted_at_its_peer(world: Pair) -> None:
    gateway, device = world.connect()
    gateway.wait_until_up("seattle")
    file = world.directory / "seattle.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[[tenant.site]]")])
    device.reload()
    gateway.wait_for("seattle", lambda site: site.state == "waiting", "deleted", 5)


def test_tunnel_by_cbc_carries_the_largest_packet_and_learns_of_a_narrower_path(world: Pair) -> None:
    gateway, device = world.connect(
        edge={"esp_proposals": ["aes256-sha256-esn"]}, seattle={"profile": "compatible"}
    )
    (child,) = gateway.wait_until_up("seattle").children
    assert child.suite.startswith("aes256-sha256")
    assert child.mtu == 1438
    device.wait_until_up("datacenter")
    vm, server = world.vm("red-web1"), world.server("seattle")
    assert answered(vm, SERVER, child.mtu)
    assert f"mtu = {child.mtu}" in refused(vm, SERVER, child.mtu + 1)

    world.internet.router.ip("link set seattle mtu 1400")
    refused(vm, SERVER, child.mtu)  # the one that is lost, and by which the gateway learns
    narrow = gateway.wait_for("seattle", lambda site: site.children[0].mtu < child.mtu, "narrower", 5)
    assert 1300 < narrow.children[0].mtu < 1400 - 20
    assert f"mtu = {narrow.children[0].mtu}" in refused(vm, SERVER, child.mtu)
    assert transfers(world, vm, server, SERVER, 1_000_000)


def test_what_strangers_send_changes_nothing_of_a_tunnel(world: Pair) -> None:
    gateway, _ = world.connect()
    before = gateway.wait_until_up("seattle")
    spi = int(before.children[0].inbound_spi, 16)
    forged = [ESP_HEADER.pack(spi, sequence) + bytes(120) for sequence in (1, 1000, 0xFFFFFFFF)]
    esp = [ESP_HEADER.pack(spi ^ 1, 1) + bytes(120), *(forged[0][:length] for length in range(40)), *forged]
    ike = [bytes(NON_ESP_MARKER) + bytes([7]) * length for length in range(80)]

    def throw() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, ESP) as raw:
            for packet in esp:
                raw.sendto(packet, (EDGE, 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for port in (500, 4500):
                for datagram in (*ike, *(each[NON_ESP_MARKER:] for each in ike), *esp):
                    sender.sendto(datagram, (EDGE, port))

    world.internet.router.call(throw)
    assert lost(world.vm("red-web1"), SERVER) == 0
    after = gateway.site("seattle")
    assert after.since == before.since
    assert after.path == before.path
    assert after.received_packets == before.received_packets + 3
    counted = nodes.counters(gateway.process)["tunnels"]
    assert {"malformed", "unknown-spi", "not-authentic"} <= {each["reason"] for each in counted["esp_drops"]}
    assert counted["ike_drops"]["ike-malformed"] > 0


def test_peer_that_is_dead_is_noticed_under_traffic_and_back_by_itself(world: Pair) -> None:
    gateway, device = world.connect(edge={"liveness": "2 s"})
    gateway.wait_until_up("seattle")
    pings = world.start("ping", world.vm("red-web1"), "ping", "-q", "-i", "0.1", SERVER)
    device.kill()
    begun = time.monotonic()
    gateway.wait_for("seattle", lambda site: site.state != "up", "down", 10)
    assert time.monotonic() - begun < 4
    assert "no answer" in gateway.wait_for_error("seattle", "no answer", 1)
    pings.stop()
    world.start_device("seattle")
    gateway.wait_until_up("seattle", 10)
    assert lost(world.vm("red-web1"), SERVER) == 0


def test_new_secret_is_used_after_a_reload_and_until_then_the_old_tunnel_carries_on(world: Pair) -> None:
    gateway, device = world.connect(
        edge={"peer": "198.18.1.2", "start": "start"}, seattle={"start": "respond"}
    )
    first = gateway.wait_until_up("seattle").children[0].inbound_spi
    world.put_secret("seattle.psk", "a new one")
    assert "red/seattle authenticates again" in world.isthmus("reload", "edge-1")
    gateway.wait_for_error("seattle", "AUTHENTICATION_FAILED|secret", 5)
    assert gateway.site("seattle").children[0].inbound_spi == first
    assert lost(world.vm("red-web1"), SERVER) == 0

    device.reload()
    gateway.wait_for(
        "seattle",
        lambda site: site.state == "up" and first not in [child.inbound_spi for child in site.children],
        "up by the new secret",
        10,
    )
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert "red/seattle: up since " in world.isthmus("sites", "edge-1")


def test_one_server_that_is_still_at_the_site_is_reached_from_its_subnet_in_the_datacenter(
    world: Pair,
) -> None:
    gateway, _ = world.connect(moved=f"{STAYED}/30")
    gateway.wait_until_up("seattle")
    assert lost(world.vm("red-web1"), STAYED, count=1) == 1
    for node in ("edge-1", "hv1"):
        world.give_red(node, f'[[tenant.route]]\nprefix = "{STAYED}/32"\nvia = "site:seattle"\n')
    gateway.wait_for(
        "seattle",
        lambda site: site.state == "up" and STAYED in " ".join(site.children[0].remote),
        "up with the server's address",
        15,
    )
    # What it asked for in vain would be asked for again in some seconds only: that is the VM's own affair.
    world.vm("red-web1").ip(f"link set {VM_INTERFACE} arp off", f"link set {VM_INTERFACE} arp on")
    assert lost(world.vm("red-web1"), STAYED) == 0
    assert lost(world.server("seattle"), VM) == 0


def test_two_sites_of_a_tenant_reach_each_other_through_the_gateway_as_its_rules_allow(world: Pair) -> None:
    own = {"seattle": "172.18.0.10/24", "boston": "172.19.0.10/24"}
    networks = {name: str(ipaddress.ip_interface(address).network) for name, address in own.items()}
    other = {"seattle": "boston", "boston": "seattle"}
    sites = []
    for name in own:
        world.premises[name] = world.internet.premises(name, routed=False)
        world.put_secret(f"{name}.psk", f"of {name}")
        reached = [VM_SUBNETS[0], networks[other[name]]]
        sites.append(
            msgspec.structs.replace(
                site_named(name, start="respond", local_prefixes=reached), prefixes=(networks[name],)
            )
        )
    gateway = world.start_gateway(*sites)
    for name, address in own.items():
        world.add_device(name, EDGE, (VM_SUBNETS[0], networks[other[name]]), also=address)
        gateway.wait_until_up(name)
    seattle, vm = world.server("seattle"), world.vm("red-web1")
    seattle.ip(f"route add {networks['boston']} via {premises.DEVICE[0]} src 172.18.0.10")
    assert lost(seattle, "172.19.0.10") == 0

    # Both ways: what answers an allowed packet passes, and nobody remembers who began.
    denied = [
        f'[[tenant.access]]\nname = "not from {name}"\naction = "deny"\n'
        f'from = "site:{name}"\nto = "site:{target}"\n'
        for name, target in other.items()
    ]
    world.give_red("edge-1", "".join(denied) + '[[tenant.access]]\nname = "all else"\naction = "allow"\n')
    assert lost(seattle, "172.19.0.10", count=1) == 1
    assert lost(vm, "172.18.0.10") == 0
    assert lost(vm, "172.19.0.10") == 0
