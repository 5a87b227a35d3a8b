"""What the gateway alone carries between NVGRE and a site's ESP, beside strongSwan with the same packets.

    sender - edge - receiver

The sender is a host of the datacenter, the receiver a site's VPN device: only its key
exchange is real. To the site, the sender sends NVGRE, and the device's interface
counts the ESP packets that arrive; from the site, packets are sent that were sealed
beforehand, each with a sequence number of its own, and the sender's interface counts.
Beside that, strongSwan with its userspace ESP (kernel-libipsec, the one that a kernel
without IPsec can have) has the gateway's place: it takes the same inner packets
without NVGRE from the sender, and gives it those from the site.

Both have ESP in UDP with AES-256-GCM, and edge's one processor for everything: the kernel
and the gateway. On edge's interface to the device, UDP segmentation offload is off, so that
the kernel cuts there what the gateway sends in one call, and every packet is counted; where a
network card does that, the gateway has the time.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.lab import strongswan
from gateway.lab.namespaces import TOOL_PATH, LabError
from gateway.lab.processes import Process
from gateway.lab.strongswan import Child, Connection, StrongSwan
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, gateway_mac
from policies.facts import UDP
from policies.ipsec import MODERN_ESP, MODERN_IKE, Lifetimes, SiteStart
from policies.secret import Secret
from policies.selectors import Selectors, TrafficSelector
from tests.bench.device import Devices
from tests.bench.generator import StreamGenerator, udp_frames
from tests.bench.live import CLIENT, CLIENT_MAC, EDGE, GRE, LINK_MACS, RECEIVER, SENDER, WEB, Line
from tests.bench.rates import Way, generator_apart, highest_rates_in_turn
from tests.bench.results import CannotMeasure, Result
from tests.configurations import RED, provider_host, record, site
from tunnels.effects import NAT_PORT, ChildSa
from tunnels.esp import transform
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity
from tunnels.ike.policy import ChildPolicy, PeerPolicy

SECRET = "only for the benchmark"  # noqa: S105 - as it says
SERVER = CustomerAddress.parse("172.16.0.10")
NEAR, FAR = "10.0.1.0/24", "172.16.0.0/16"
SIZES = (64, 1400)
EDGE_ID, DEVICE_ID = "edge-1.example", "device.example"
TOOLS = ("ethtool", "nft")


class Sealer:
    """Seals the packets of one child SA: each gets a sequence number of its own."""

    def __init__(self, child: ChildSa) -> None:
        self._sealing = transform.sealing(child.suite, child.outbound_spi, child.outbound)
        self._sequence = 0

    def frames(self, packets: Sequence[bytes], count: int) -> list[bytes]:
        """Seal packets of one length in turn, until `count` frames from the device to edge are there."""
        length = 8 + len(self._seal(packets[0]))
        ports = NAT_PORT.to_bytes(2)
        # Without a checksum, as RFC 3948 section 2.1 wants it.
        datagram = ports + ports + length.to_bytes(2) + bytes(length - 6)
        header = EthernetHeader(LINK_MACS["to-receiver"], LINK_MACS["receiver"], ethernet.IPV4).encode()
        outer = header + ip.build(RECEIVER, EDGE, UDP, datagram)[: 8 - length]
        return [outer + self._seal(packets[n % len(packets)]) for n in range(count)]

    def _seal(self, packet: bytes) -> bytes:
        self._sequence += 1
        return self._sealing.seal(self._sequence, packet)


class SealedWay(Way, frozen=True):
    """A way from the site; `frames` are the IP packets that are sealed before they are sent."""

    sealer: Sealer

    def send(self, rate: float, seconds: float) -> tuple[int, float]:
        frames = self.sealer.frames(self.frames, int(rate * seconds) + 1)
        return self.sender.call(_stream, frames, rate, seconds)


class SiteLine(Line):
    """The receiver is a site's device, and edge carries the site's packets."""

    def build(self) -> None:
        super().build()
        edge, device = self.namespaces["edge"], self.namespaces["receiver"]
        device.ip(
            f"address add {RECEIVER}/32 dev eth0",
            f"route add {EDGE}/32 dev eth0",
            f"neighbour add {EDGE} lladdr {LINK_MACS['to-receiver']} dev eth0",
        )
        edge.run("ethtool", "-K", "to-receiver", "tx-udp-segmentation", "off")

    def configuration(self) -> str:
        self.put_secret()
        device = site("seattle", FAR, RECEIVER, remote_id=DEVICE_ID, start=SiteStart.RESPOND, force_udp=True)
        client = record(CLIENT, CLIENT_MAC, "hv1")
        return self.gateway() + provider_host("hv1", SENDER) + RED + client + device

    def put_secret(self) -> None:
        """Write the pre-shared key where the configuration looks for it."""
        secret = self.directory / "seattle.psk"
        secret.touch(mode=0o600)
        secret.write_text(SECRET)

    def start_strongswan(self) -> Process:
        """Run strongSwan in edge, which forwards plainly on its other side. Raises LabError."""
        edge = self.namespaces["edge"]
        edge.ip(
            # An address that the child SA admits is what libipsec makes its route with.
            "address add 10.0.1.1/24 dev to-sender",
            f"neighbour add {CLIENT} lladdr {LINK_MACS['sender']} dev to-sender",
        )
        connection = Connection(
            local_id=EDGE_ID,
            remote_id=DEVICE_ID,
            local_address=str(EDGE),
            remote_address=str(RECEIVER),
            children={"net": Child(local=(NEAR,), remote=(FAR,))},
            psk=SECRET,
        )
        swan = StrongSwan(self, "strongswan", edge, {"device": connection})
        swan.start()
        if swan.process is None:
            raise LabError("strongSwan does not run")
        for task in Path(f"/proc/{swan.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), [self._processor])
        return swan.process

    def device(self) -> Devices:
        """The site's device, which dials edge."""
        return Devices(self.namespaces["receiver"], [device_policy()])

    def to_site(self, size: int) -> Way:
        """The way of NVGRE packets to the site, their inner frames of `size` octets."""
        outer = EthernetHeader(LINK_MACS["to-sender"], LINK_MACS["sender"], ethernet.IPV4).encode()
        inner = EthernetHeader(gateway_mac(WEB), CLIENT_MAC, ethernet.IPV4)
        frames = [
            outer + ip.build(SENDER, EDGE, GRE, nvgre.encode(WEB, flow) + frame)
            for flow, frame in enumerate(udp_frames(inner, CLIENT, SERVER, size))
        ]
        return Way(self.namespaces["sender"], self.namespaces["receiver"], frames)

    def plain_to_site(self, size: int) -> Way:
        """The way of the same inner packets, without NVGRE."""
        header = EthernetHeader(LINK_MACS["to-sender"], LINK_MACS["sender"], ethernet.IPV4)
        frames = udp_frames(header, CLIENT, SERVER, size)
        return Way(self.namespaces["sender"], self.namespaces["receiver"], frames)

    def from_site(self, sealer: Sealer, size: int) -> Way:
        """The way of packets from the site, of `size` octets with an inner Ethernet header."""
        header = EthernetHeader(CLIENT_MAC, CLIENT_MAC, ethernet.IPV4)
        packets = [frame[ethernet.HEADER_LENGTH :] for frame in udp_frames(header, SERVER, CLIENT, size)]
        return SealedWay(self.namespaces["receiver"], self.namespaces["sender"], packets, sealer)


def benchmark() -> Iterator[Result]:
    """Measure strongSwan and the gateway in turn, each in namespaces of its own."""
    absent = [tool for tool in TOOLS if shutil.which(tool, path=TOOL_PATH) is None]
    reason = f"{' and '.join(absent)} not installed" if absent else strongswan.missing()
    if reason is not None:
        raise CannotMeasure(reason)
    with generator_apart() as processor, SiteLine(processor) as theirs, SiteLine(processor) as ours:
        swan, gateway = theirs.start_strongswan(), ours.start_gateway()
        with theirs.device() as their_device, ours.device() as our_device:
            their_sealer, our_sealer = (_sealer(device) for device in (their_device, our_device))
            for size in SIZES:
                remark = f"{size} B{ours.remark}"
                yield from _compared(
                    f"to a site, {remark}",
                    size,
                    (theirs.plain_to_site(size), swan),
                    (ours.to_site(size), gateway),
                )
                yield from _compared(
                    f"from a site, {remark}",
                    size,
                    (theirs.from_site(their_sealer, size), swan),
                    (ours.from_site(our_sealer, size), gateway),
                )


def _compared(
    kind: str, size: int, theirs: tuple[Way, Process], ours: tuple[Way, Process]
) -> Iterator[Result]:
    (their_way, swan), (our_way, gateway) = theirs, ours
    their_rates, our_rates = highest_rates_in_turn(their_way, our_way)
    unit, factor = ("packets/s", 1.0) if size == min(SIZES) else ("Mbit/s", size * 8 / 1e6)
    carried = Result(
        f"sites: strongSwan libipsec, {kind}", unit, tuple(rate * factor for rate in their_rates)
    )
    yield carried
    yield Result(
        f"sites: Python gateway, {kind}",
        unit,
        tuple(rate * factor for rate in our_rates),
        against=carried.name,
        at_least=carried.value,
    )
    # At one rate for both, for what wakes up less often takes less for each packet.
    rate = min(statistics.median(rates) for rates in (their_rates, our_rates))
    taken = Result(
        f"sites: strongSwan libipsec, processor time of a packet, {kind}",
        "us",
        their_way.processor_times([swan], rate),
    )
    yield taken
    yield Result(
        f"sites: Python gateway, processor time of a packet, {kind}",
        "us",
        our_way.processor_times([gateway], rate),
        against=taken.name,
    )


def _sealer(device: Devices) -> Sealer:
    device.wait_until_up()
    (child,) = device.children.values()
    return Sealer(child)


def _stream(frames: Sequence[bytes], rate: float, seconds: float) -> tuple[int, float]:
    with StreamGenerator("eth0", frames) as generator:
        return generator.run(rate, seconds)


def device_policy() -> PeerPolicy:
    """What the site's device holds edge to."""
    near, far = (TrafficSelector.of(ipaddress.ip_network(each)) for each in (NEAR, FAR))
    return PeerPolicy(
        site=("device", "edge-1"),
        start=SiteStart.START,
        local_addresses=(RECEIVER,),
        remote_address=EDGE,
        local_id=Identity.parse(DEVICE_ID),
        remote_id=Identity.parse(EDGE_ID),
        credentials=Credentials(psk=Secret(SECRET.encode())),
        ike_proposals=MODERN_IKE,
        esp_proposals=MODERN_ESP,
        children=(ChildPolicy("net", Selectors((far,), (near,))),),
        lifetimes=Lifetimes(),
        liveness=3600.0,
        force_udp=True,
    )
