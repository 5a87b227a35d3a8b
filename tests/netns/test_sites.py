"""Two isthmuses: what strongSwan's libipsec cannot show, which is ESP without UDP and long sequence numbers.

red-web1                                          seattle-server
    |                                                   |
   hv1 ------- underlay ------- internet ---(nat)--- seattle (isthmus run)
                  |
               edge-1 (isthmus run)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.lab import echo, nodes, premises
from gateway.lab.capture import read_frames
from gateway.lab.topology import UPLINK, Site
from gateway.packets import ethernet, ip
from policies.errors import MalformedPacket
from tests.interop.strongswan import (
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
SEATTLE_ID = "seattle.example"


class Pair(World):
    """The datacenter's gateway, and one at the premises, which dials unless told otherwise."""

    def connect(
        self,
        *,
        family: int = 4,
        nat: premises.Nat | None = None,
        edge: dict[str, Any] | None = None,
        seattle: dict[str, Any] | None = None,
    ) -> tuple[Gateway, Gateway]:
        """Start both, with more keys of each one's site."""
        place = self.premises["seattle"] = self.internet.premises("seattle", nat, routed=False)
        self.put_secret("seattle.psk", "shared by both")
        gateway = self.start_gateway(site_named("seattle", **{"start": "respond", **(edge or {})}))
        address = next(
            each for each in self.plan.gateways[0].provider_addresses if (":" in each) == (family == 6)
        )
        datacenter = Site(
            tenant="red",
            name="datacenter",
            gateway="seattle",
            prefixes=VM_SUBNETS,
            peer=address,
            ike={"local_id": SEATTLE_ID, "remote_id": EDGE_ID, "psk_file": "seattle.psk"},
            others=seattle or {},
        )
        plan = premises.as_datacenter(place, "red", 5101, datacenter)
        file = self.directory / "seattle.toml"
        state = self.directory / "seattle"
        file.write_text(nodes.configuration(plan, plan.gateways[0], state=state))
        process = self.start("seattle", place.device, *nodes.run_command(file))
        process.wait_for(r"\bready\b")
        return gateway, Gateway(self, process, "seattle")


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
    gateway, _ = world.connect(nat=world.nat if behind_nat else None, seattle=wish)
    gateway.wait_until_up("seattle")
    (child,) = gateway.site("seattle").children
    assert child.in_udp

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
