from __future__ import annotations

import ipaddress
import math

import msgspec
import pytest

from policies.addresses import ProviderAddress
from policies.facts import TCP
from policies.ipsec import Encryption, EspSuite, Integrity
from policies.selectors import Selectors, TrafficSelector
from tests.tunnels.esp.pairs import (
    BACK,
    FAR,
    GCM,
    NEAR,
    OUR_SPI,
    PATH,
    PEER_SPI,
    SITE,
    back,
    child,
    joined,
    mirrored,
    opened,
    packet,
    path,
    sealed,
    selectors,
)
from tunnels.effects import InstallChild, Path
from tunnels.esp import associations
from tunnels.esp.associations import LINGERING, Associations, Moved, inner_mtu
from tunnels.esp.drops import EspDrop
from tunnels.replay import WINDOW

NO_ESN = EspSuite(Encryption.AES_128_GCM, None, False)


def expiring(associations: Associations) -> list[int]:
    return [each.inbound_spi for each in associations.take_expiring()]


def test_packet_arrives_with_what_is_known_of_it() -> None:
    us, peer = joined(child())
    result = sealed(us, packet(), now=3.5)
    assert (result.path, result.in_udp) == (PATH, True)
    assert opened(peer, result.packet, now=4.5, came_by=BACK) == packet()[1]
    traffic = us.traffic(SITE)
    assert (traffic.sent_packets, traffic.sent_bytes, traffic.last_sent) == (1, 100, 3.5)
    traffic = peer.traffic(SITE)
    assert (traffic.received_packets, traffic.received_bytes, traffic.last_received) == (1, 100, 4.5)
    assert traffic.last_sent == -math.inf


def test_replayed_packet_is_dropped_and_the_window_does_not_move() -> None:
    us, peer = joined(child())
    first, second = (sealed(peer, back()).packet for _ in range(2))
    opened(us, second)
    before = us.traffic(SITE).last_received
    assert us.open_untrusted(PATH, second, 9.0) is EspDrop.REPLAYED
    assert us.traffic(SITE).last_received == before
    assert opened(us, first)
    assert us.open_untrusted(PATH, first, 9.0) is EspDrop.REPLAYED
    assert us.drops[EspDrop.REPLAYED, SITE] == 2


def test_what_is_not_authentic_changes_nothing() -> None:
    us, peer = joined(child())
    us.send_by(OUR_SPI)
    genuine = [sealed(peer, back()).packet for _ in range(WINDOW + 1)]
    forged_far_ahead = genuine[0][:4] + (1 << 31).to_bytes(4) + genuine[0][8:]
    for forged in (forged_far_ahead, genuine[-1][:-1] + bytes([genuine[-1][-1] ^ 1]), genuine[-1][:-4]):
        assert us.open_untrusted(path(remote="203.0.113.66"), forged, 9.0) is EspDrop.NOT_AUTHENTIC
    assert us.traffic(SITE).last_received == -math.inf
    assert us.take_moved() == []
    for each in genuine:
        opened(us, each)


def test_forged_packet_does_not_make_a_child_sa_the_one_to_send_by() -> None:
    us = Associations()
    us.install(InstallChild(child(), sending=False))
    peer = Associations()
    peer.install(InstallChild(mirrored(child()), sending=True))
    genuine = sealed(peer, back()).packet
    us.open_untrusted(PATH, genuine[:-1] + b"\0", 0.0)
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.NO_CHILD
    assert us.take_changed() == set()
    opened(us, genuine)
    assert us.take_changed() == {SITE}
    assert sealed(us, packet()).packet.startswith(PEER_SPI.to_bytes(4))


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", EspDrop.MALFORMED),
        (bytes(7), EspDrop.MALFORMED),
        (bytes(8), EspDrop.UNKNOWN_SPI),
        (b"\0\0\x77\x77" + bytes(90), EspDrop.UNKNOWN_SPI),
        (OUR_SPI.to_bytes(4) + bytes(90), EspDrop.REPLAYED),
        (OUR_SPI.to_bytes(4) + b"\0\0\0\1" + bytes(25), EspDrop.MALFORMED),
        (OUR_SPI.to_bytes(4) + b"\0\0\0\1" + bytes(26), EspDrop.NOT_AUTHENTIC),
    ],
)
def test_each_packet_that_does_not_get_in_has_its_own_reason(octets: bytes, reason: EspDrop) -> None:
    us, _ = joined(child())
    assert us.open_untrusted(PATH, octets, 0.0) is reason
    assert sum(us.drops.values()) == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"\x45" * 30 + bytes([0, 59]), EspDrop.DUMMY), (b"\x45" * 30 + bytes([0, 6]), EspDrop.MALFORMED)],
)
def test_authentic_packet_without_an_ip_packet_counts_as_a_sign_of_life(
    payload: bytes, reason: EspDrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    us, peer = joined(child())
    monkeypatch.setattr("tunnels.esp.transform._AeadSealing._ipv4", (b"",) * 4)
    octets = sealed(peer, (back()[0], payload)).packet
    assert us.open_untrusted(PATH, octets, 8.0) is reason
    assert us.traffic(SITE).last_received == 8.0
    assert us.traffic(SITE).received_packets == 0


def test_site_without_a_child_sa_is_not_sent_to() -> None:
    us = Associations()
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.NO_CHILD
    us.install(InstallChild(child(), sending=False))
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.NO_CHILD
    assert us.children(SITE) == ()
    us.send_by(OUR_SPI)
    sealed(us, packet())
    assert us.children(SITE) == (child(),)


def test_packet_outside_the_selectors_is_not_sent() -> None:
    us, _ = joined(child())
    assert us.seal(SITE, *packet(destination="172.17.0.1"), 0.0) is EspDrop.NO_CHILD
    assert us.seal(SITE, *packet(source="10.1.0.1"), 0.0) is EspDrop.NO_CHILD
    assert us.seal(SITE, *packet(source="fd00::1", destination="fd00::2"), 0.0) is EspDrop.NO_CHILD


def test_each_packet_takes_the_child_sa_that_it_fits() -> None:
    us = Associations()
    other = ipaddress.ip_network("172.20.0.0/16")
    us.install(InstallChild(child(), sending=True))
    us.install(InstallChild(child(number=1, chosen=selectors(remote=other)), sending=True))
    for _ in range(2):
        assert sealed(us, packet()).packet.startswith(PEER_SPI.to_bytes(4))
        assert sealed(us, packet(destination="172.20.9.9")).packet.startswith((PEER_SPI + 1).to_bytes(4))


def test_child_sa_for_a_port_is_chosen_by_the_port() -> None:
    web = Selectors(
        (TrafficSelector.of(NEAR),), (msgspec.structs.replace(TrafficSelector.of(FAR), protocol=TCP),)
    )
    name = Selectors(
        (TrafficSelector.of(NEAR),),
        (msgspec.structs.replace(TrafficSelector.of(FAR), protocol=17, start_port=53, end_port=53),),
    )
    us = Associations()
    us.install(InstallChild(child(chosen=web), sending=True))
    us.install(InstallChild(child(number=1, chosen=name), sending=True))
    for _ in range(2):
        assert sealed(us, packet(port=53)).packet.startswith((PEER_SPI + 1).to_bytes(4))
        assert us.seal(SITE, *packet(port=54), 0.0) is EspDrop.NO_CHILD


def test_rekeyed_child_sa_takes_over_when_told_and_the_old_one_still_receives() -> None:
    us, peer = joined(child())
    sealed(us, packet())
    on_its_way = sealed(peer, back()).packet
    us.install(InstallChild(child(number=1), sending=False))
    assert sealed(us, packet()).packet.startswith(PEER_SPI.to_bytes(4))
    us.send_by(OUR_SPI + 1)
    assert sealed(us, packet()).packet.startswith((PEER_SPI + 1).to_bytes(4))
    us.remove(OUR_SPI, linger=True, now=100.0)
    assert sealed(us, packet()).packet.startswith((PEER_SPI + 1).to_bytes(4))
    assert opened(us, on_its_way, now=100.0 + LINGERING - 0.01)


def test_removed_child_sa_receives_no_longer_than_it_lingers() -> None:
    us, peer = joined(child())
    late = [sealed(peer, back()).packet for _ in range(3)]
    us.remove(OUR_SPI, linger=True, now=100.0)
    assert us.seal(SITE, *packet(), 100.0) is EspDrop.NO_CHILD
    assert opened(us, late[0], now=104.9)
    assert us.seal(SITE, *packet(), 104.9) is EspDrop.NO_CHILD, "it does not come back to life"
    assert us.open_untrusted(PATH, late[1], 100.0 + LINGERING) is EspDrop.UNKNOWN_SPI
    us.handle_timeout(104.0)
    assert OUR_SPI in us
    us.handle_timeout(100.0 + LINGERING)
    assert OUR_SPI not in us


def test_child_sa_that_is_removed_at_once_receives_nothing_more() -> None:
    us, peer = joined(child())
    us.remove(OUR_SPI, linger=False, now=0.0)
    assert us.open_untrusted(PATH, sealed(peer, back()).packet, 0.0) is EspDrop.UNKNOWN_SPI
    us.remove(OUR_SPI, linger=True, now=0.0)
    us.send_by(OUR_SPI)
    us.move([OUR_SPI], PATH)
    assert OUR_SPI not in us


def test_spi_in_use_is_not_given_to_another() -> None:
    us, _ = joined(child())
    with pytest.raises(ValueError, match="in use"):
        us.install(InstallChild(child(), sending=True))


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hard limits be a tenth above soft ones, however small those are."""
    monkeypatch.setattr(associations, "GRACE_BYTES", 0)
    monkeypatch.setattr(associations, "GRACE_PACKETS", 0)


def test_child_sa_with_small_limits_goes_on_until_it_can_have_been_replaced() -> None:
    us, _ = joined(child(soft_packets=20, soft_bytes=1000))
    for _ in range(500):
        sealed(us, packet())
    assert expiring(us) == [OUR_SPI]


@pytest.mark.parametrize("suite", [GCM, NO_ESN], ids=str)
def test_soft_limit_is_reported_once_and_the_hard_one_ends_it(suite: EspSuite, no_grace: None) -> None:
    us, peer = joined(child(suite, soft_packets=20))
    for _ in range(20):
        sealed(us, packet())
    assert expiring(us) == []
    us.take_changed()
    sealed(us, packet())
    had_news = us.has_news
    assert expiring(us) == [OUR_SPI]
    assert (had_news, us.has_news) == (True, False)
    sealed(us, packet())
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.EXHAUSTED
    assert us.drops[EspDrop.EXHAUSTED, SITE] == 1
    # Its peer has sent nothing, so its packets still come.
    opened(us, sealed(peer, back()).packet)


def test_soft_limit_counts_what_is_received_too(no_grace: None) -> None:
    us, _ = joined(child(soft_bytes=1000))
    _, peer = joined(child())
    results = [us.open_untrusted(PATH, sealed(peer, back()).packet, 0.0) for _ in range(12)]
    assert expiring(us) == [OUR_SPI]
    assert results[-1] is EspDrop.EXHAUSTED


def test_soft_limit_counts_octets(no_grace: None) -> None:
    us, _ = joined(child(soft_bytes=1000))
    for _ in range(10):
        sealed(us, packet())
    assert expiring(us) == []
    sealed(us, packet())
    assert expiring(us) == [OUR_SPI]
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.EXHAUSTED


@pytest.mark.parametrize(("suite", "last"), [(GCM, (1 << 64) - 1), (NO_ESN, (1 << 32) - 1)], ids=str)
def test_sequence_numbers_never_begin_again(suite: EspSuite, last: int) -> None:
    us, _ = joined(child(suite, soft_packets=1 << 70))
    us._inbound[OUR_SPI].sent_packets = last - 1
    assert sealed(us, packet()).packet[4:8] == b"\xff\xff\xff\xff"
    assert expiring(us) == [OUR_SPI]
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.EXHAUSTED


def test_32_bit_numbers_are_reported_well_before_they_end() -> None:
    us, _ = joined(child(NO_ESN, soft_packets=1 << 70))
    us._inbound[OUR_SPI].sent_packets = int(0.91 * (1 << 32))
    sealed(us, packet())
    assert expiring(us) == [OUR_SPI]


def test_peer_behind_another_port_is_reported_and_followed_when_told() -> None:
    us, peer = joined(child())
    elsewhere = path(remote="203.0.113.9", port=61000)
    for _ in range(3):
        opened(us, sealed(peer, back()).packet, came_by=elsewhere)
    us.take_changed()
    had_news = us.has_news
    assert us.take_moved() == [Moved(SITE, OUR_SPI, elsewhere)]
    assert (had_news, us.has_news) == (True, False)
    assert sealed(us, packet()).path == PATH, "whether to follow is for the key exchange to decide"
    us.move([OUR_SPI], elsewhere)
    assert us.take_changed() == {SITE}
    assert sealed(us, packet()).path == elsewhere
    opened(us, sealed(peer, back()).packet, came_by=elsewhere)
    assert us.take_moved() == []


def test_older_packet_that_comes_late_by_the_old_way_moves_nothing() -> None:
    us, peer = joined(child())
    older, newer = sealed(peer, back()).packet, sealed(peer, back()).packet
    elsewhere = path(port=61000)
    opened(us, newer, came_by=elsewhere)
    us.move([moved.inbound_spi for moved in us.take_moved()], elsewhere)
    opened(us, older, came_by=PATH)
    assert us.take_moved() == []


@pytest.mark.parametrize(("in_udp", "port"), [(False, 61000), (True, 0), (False, 0)])
def test_no_nat_is_followed_outside_udp(in_udp: bool, port: int) -> None:
    us, peer = joined(child(in_udp=in_udp))
    opened(us, sealed(peer, back()).packet, came_by=path(remote="203.0.113.9", port=port))
    assert us.take_moved() == []


def test_site_that_a_reported_packet_was_for_is_found_by_address_and_spi() -> None:
    us, _ = joined(child())
    address = PATH.remote.address
    assert us.site_sent_to(address, PEER_SPI) == SITE
    assert us.site_sent_to(address, OUR_SPI) is None
    assert us.site_sent_to(ProviderAddress.parse("198.51.100.2"), PEER_SPI) is None
    us.move([OUR_SPI], path(remote="198.51.100.2"))
    assert us.site_sent_to(address, PEER_SPI) is None
    assert us.site_sent_to(ProviderAddress.parse("198.51.100.2"), PEER_SPI) == SITE
    us.remove(OUR_SPI, linger=True, now=0.0)
    assert us.site_sent_to(ProviderAddress.parse("198.51.100.2"), PEER_SPI) is None


@pytest.mark.parametrize("in_udp", [True, False])
@pytest.mark.parametrize("addresses", [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8:1::1")])
@pytest.mark.parametrize("suite", [GCM, EspSuite(Encryption.AES_128_CBC, Integrity.SHA2_512, False)], ids=str)
def test_mtu_is_the_largest_packet_whose_outer_packet_fits(
    suite: EspSuite, addresses: tuple[str, str], in_udp: bool
) -> None:
    way: Path = path(*addresses)
    ours = msgspec.structs.replace(child(suite, in_udp=in_udp), path=way)
    us, _ = joined(ours)
    outer = (20 if way.local.address.version == 4 else 40) + (8 if in_udp else 0)
    for underlay in range(1280, 1300):
        mtu = inner_mtu(ours, underlay)
        assert outer + len(sealed(us, packet(mtu)).packet) <= underlay
        assert outer + len(sealed(us, packet(mtu + 1)).packet) > underlay


def test_flows_are_not_remembered_without_bound() -> None:
    us, _ = joined(child())
    facts, octets = packet()
    for n in range(5000):
        other = msgspec.structs.replace(facts, source=bytes([10, 0, n >> 8, n & 255]))
        sealed(us, (other, octets))
    assert len(us._sites[SITE].chosen) <= 4096


def test_site_that_is_not_configured_any_more_is_forgotten_with_its_counters() -> None:
    us, peer = joined(child())
    first = sealed(peer, back()).packet
    opened(us, first)
    assert us.open_untrusted(PATH, first, 9.0) is EspDrop.REPLAYED
    us.keep_only([("blue", "oslo")])
    assert OUR_SPI not in us
    assert us.children(SITE) == ()
    assert us.traffic(SITE).received_packets == 0
    assert not us.drops
    assert us.open_untrusted(PATH, first, 9.0) is EspDrop.UNKNOWN_SPI


def test_site_that_is_kept_keeps_everything() -> None:
    us, peer = joined(child())
    us.keep_only([SITE])
    assert opened(us, sealed(peer, back()).packet)


def test_child_sa_that_has_moved_says_where_it_is() -> None:
    us, _ = joined(child())
    us.move([OUR_SPI], BACK)
    (moved,) = us.children(SITE)
    assert moved.path == BACK
