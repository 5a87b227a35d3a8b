"""Two gateways' ends of one child SA, and packets that fit it."""

from __future__ import annotations

import ipaddress

import msgspec

from gateway.packets import ip
from policies.addresses import ProviderAddress
from policies.facts import UDP, PacketFacts
from policies.ipsec import Encryption, EspSuite, Integrity
from policies.secret import Secret
from policies.selectors import Selectors, TrafficSelector
from tunnels.effects import ChildSa, Endpoint, EspKeys, InstallChild, Path
from tunnels.esp.associations import Associations, Opened, Sealed

SITE = ("red", "seattle")
OUR_SPI = 0x1001
PEER_SPI = 0x2001

NEAR = ipaddress.ip_network("10.0.0.0/16")
FAR = ipaddress.ip_network("172.16.0.0/16")

KEY_LENGTHS = {
    Encryption.AES_128_GCM: 20,
    Encryption.AES_256_GCM: 36,
    Encryption.CHACHA20_POLY1305: 36,
    Encryption.AES_128_CBC: 16,
    Encryption.AES_256_CBC: 32,
}
INTEGRITY_LENGTHS = {Integrity.SHA2_256: 32, Integrity.SHA2_384: 48, Integrity.SHA2_512: 64}

SUITES = [
    EspSuite(encryption, integrity, extended)
    for encryption in Encryption
    for integrity in ((None,) if encryption.is_aead else tuple(Integrity))
    for extended in (True, False)
]
GCM = EspSuite(Encryption.AES_256_GCM, None, True)


def keys(suite: EspSuite, seed: int) -> EspKeys:
    """Different octets for each seed, of the lengths that the suite wants."""
    integrity = INTEGRITY_LENGTHS[suite.integrity] if suite.integrity is not None else 0
    octets = bytes((seed + 7 * n) & 0xFF for n in range(KEY_LENGTHS[suite.encryption] + integrity))
    length = KEY_LENGTHS[suite.encryption]
    return EspKeys(Secret(octets[:length]), Secret(octets[length:]))


def selectors(
    local: ipaddress.IPv4Network | ipaddress.IPv6Network = NEAR,
    remote: ipaddress.IPv4Network | ipaddress.IPv6Network = FAR,
) -> Selectors:
    return Selectors((TrafficSelector.of(local),), (TrafficSelector.of(remote),))


def path(local: str = "192.0.2.1", remote: str = "198.51.100.1", port: int = 4500) -> Path:
    return Path(Endpoint(ProviderAddress.parse(local), port), Endpoint(ProviderAddress.parse(remote), port))


PATH = path()
BACK = Path(PATH.remote, PATH.local)


def child(
    suite: EspSuite = GCM,
    *,
    number: int = 0,
    chosen: Selectors | None = None,
    in_udp: bool = True,
    soft_bytes: int = 1 << 40,
    soft_packets: int = 1 << 31,
) -> ChildSa:
    """Our end; each number has its own SPIs and keys."""
    return ChildSa(
        site=SITE,
        name="net",
        inbound_spi=OUR_SPI + number,
        outbound_spi=PEER_SPI + number,
        suite=suite,
        inbound=keys(suite, 1 + 2 * number),
        outbound=keys(suite, 2 + 2 * number),
        selectors=chosen or selectors(),
        path=PATH,
        in_udp=in_udp,
        soft_bytes=soft_bytes,
        soft_packets=soft_packets,
    )


def mirrored(ours: ChildSa) -> ChildSa:
    """The peer's end of the same child SA."""
    return msgspec.structs.replace(
        ours,
        inbound_spi=ours.outbound_spi,
        outbound_spi=ours.inbound_spi,
        inbound=ours.outbound,
        outbound=ours.inbound,
        selectors=Selectors(ours.selectors.remote, ours.selectors.local),
        path=Path(ours.path.remote, ours.path.local),
    )


def joined(ours: ChildSa) -> tuple[Associations, Associations]:
    """Us and the peer, with one child SA that both send by."""
    us, peer = Associations(), Associations()
    us.install(InstallChild(ours, sending=True))
    peer.install(InstallChild(mirrored(ours), sending=True))
    return us, peer


def packet(
    size: int = 100, *, source: str = "10.0.1.5", destination: str = "172.16.1.5", port: int = 53
) -> tuple[PacketFacts, bytes]:
    """A UDP packet of some octets, with its facts."""
    ends = ProviderAddress.parse(source), ProviderAddress.parse(destination)
    length = size - (20 if ends[0].version == 4 else 40)
    datagram = (49153).to_bytes(2) + port.to_bytes(2) + length.to_bytes(2) + bytes(2)
    octets = ip.build(*ends, UDP, datagram + bytes(n & 0xFF for n in range(length - 8)))
    return ip.decode_untrusted(octets), octets


def back(size: int = 100) -> tuple[PacketFacts, bytes]:
    """A packet from the site to us."""
    return packet(size, source="172.16.1.5", destination="10.0.1.5")


def sealed(associations: Associations, given: tuple[PacketFacts, bytes], now: float = 0.0) -> Sealed:
    """Seal a packet that is sure to have a child SA."""
    result = associations.seal(SITE, *given, now)
    assert isinstance(result, Sealed), result
    return result


def opened(associations: Associations, octets: bytes, now: float = 0.0, came_by: Path = PATH) -> bytes:
    """Open a packet that is sure to be right."""
    result = associations.open_untrusted(came_by, octets, now)
    assert isinstance(result, Opened), result
    return result.packet
