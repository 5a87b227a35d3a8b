from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest

from policies.addresses import ProviderAddress
from policies.ipsec import Encryption, Group, IkeProposal, Integrity, Prf, SiteStart
from policies.secret import Secret
from tests.tunnels.ike.nodes import Network, Node
from tests.tunnels.ike.policies import PSK, policy, selectors
from tunnels.effects import IKE_PORT, Endpoint, Path, SiteDown, SiteTrouble, SiteUp, StrangerRefused
from tunnels.ike import admission, wire
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.credentials import Credentials
from tunnels.ike.endpoint import IkeDrop
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import Header, Notify, Proposal, SecurityAssociation, Transform, VendorId
from tunnels.ike.policy import ChildPolicy, PeerPolicy
from tunnels.ike.wire import decode_header_untrusted, decode_payloads_untrusted

EDGE, DEVICE, OTHER = "192.0.2.1", "198.51.100.1", "198.51.100.2"
SEATTLE, OSLO = ("red", "seattle"), ("blue", "oslo")
HEADQUARTERS = ("cloud", "edge")
WRONG = Credentials(psk=Secret(b"not the secret"))


def dials(policy_: PeerPolicy, remote: str | None, start: SiteStart, **changes: object) -> PeerPolicy:
    return msgspec.structs.replace(
        policy_,
        remote_address=ProviderAddress.parse(remote) if remote is not None else None,
        start=start,
        **changes,
    )


def site(
    key: tuple[str, str] = SEATTLE,
    *,
    peer: str | None = DEVICE,
    start: SiteStart = SiteStart.START,
    credentials: Credentials = PSK,
) -> PeerPolicy:
    """A site as the edge has it; both tenants have the same prefixes on both sides."""
    base = policy(ids=("edge.example", f"{key[1]}.example"), credentials=credentials)
    return dials(base, peer, start, site=key, local_addresses=(ProviderAddress.parse(EDGE),))


def cloud(
    name: str = "seattle",
    *,
    address: str = DEVICE,
    start: SiteStart = SiteStart.RESPOND,
    credentials: Credentials = PSK,
) -> PeerPolicy:
    """The edge as a site's device has it."""
    base = policy(is_left=False, ids=("edge.example", f"{name}.example"), credentials=credentials)
    local = (ProviderAddress.parse(address),)
    return dials(base, EDGE, start, site=HEADQUARTERS, local_addresses=local)


@pytest.fixture
def net() -> Network:
    return Network()


@pytest.fixture
def edge(net: Network) -> Node:
    return net.node(EDGE)


@pytest.fixture
def device(net: Network) -> Node:
    return net.node(DEVICE)


def assert_one_tunnel(edge: Node, device: Node, site: tuple[str, str] = SEATTLE) -> None:
    """One IKE SA, one pair of child SAs, and both ends agree on it."""
    (ours,), (theirs,) = edge.sessions(site), device.sessions(HEADQUARTERS)
    assert (ours.own_spi, ours.peer_spi) == (theirs.peer_spi, theirs.own_spi)
    sent_by, received_by = edge.installed[edge.sending[site][-1]], device.installed
    assert sent_by.outbound_spi in received_by
    assert device.installed[device.sending[HEADQUARTERS][-1]].outbound_spi in edge.installed
    assert len(edge.installed) == len(device.installed) == 1


def test_site_that_is_to_be_up_comes_up(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(1)

    assert_one_tunnel(edge, device)


def test_peer_that_is_not_there_is_called_for_ever_with_growing_pauses(net: Network, edge: Node) -> None:
    edge.configure(site())
    net.run(3600)

    attempts = Counter(message[:8] for _, message in net.log)
    assert 55 < len(attempts) < 130  # of half a minute each, and up to half a minute between them
    assert len({each.reason for each in edge.effects if isinstance(each, SiteTrouble)}) == 1
    assert "no answer from 198.51.100.1" in edge.troubles(SEATTLE)[0]


def test_peer_that_comes_late_is_connected_within_a_minute(net: Network, edge: Node, device: Node) -> None:
    edge.configure(site())
    net.run(3600)
    device.configure(cloud())
    net.run(60)

    assert_one_tunnel(edge, device)


@pytest.mark.parametrize("seed", range(20))
def test_two_that_call_each_other_at_once_settle_on_one_tunnel(net: Network, seed: int) -> None:
    edge, device = net.node(EDGE), net.node(DEVICE)
    edge.reboot(2 * seed)
    device.reboot(2 * seed + 1)
    edge.configure(site())
    net.run(seed * 0.003)  # from before the first message to after the last
    device.configure(cloud(start=SiteStart.START))
    net.run(40)

    assert_one_tunnel(edge, device)
    edge.effects.clear()
    net.run(1000)
    assert edge.turns(SEATTLE) == []
    assert_one_tunnel(edge, device)


def test_device_that_rebooted_and_calls_replaces_its_old_session(
    net: Network, edge: Node, device: Node
) -> None:
    device.configure(cloud(start=SiteStart.START))
    edge.configure(site(start=SiteStart.RESPOND))
    net.run(100)
    device.reboot()
    device.configure(cloud(start=SiteStart.START))
    net.run(2)

    assert_one_tunnel(edge, device)
    assert SiteDown not in edge.turns(SEATTLE)


def test_edge_that_rebooted_calls_and_the_device_takes_it(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(100)
    edge.reboot()
    edge.configure(site())
    net.run(2)

    assert_one_tunnel(edge, device)


def test_device_that_was_cut_off_is_called_again(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(10)
    net.is_cut = True
    net.run(300)
    assert edge.turns(SEATTLE) == [SiteUp, SiteDown]
    assert not edge.installed
    net.is_cut = False
    net.run(60)

    assert_one_tunnel(edge, device)


def test_removed_site_is_deleted_at_its_peer_and_forgotten(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(5)
    edge.configure()
    net.run(10)

    assert device.turns(HEADQUARTERS) == [SiteUp, SiteDown]
    assert not device.installed
    assert not edge.installed
    assert edge.endpoint.is_closed
    assert not edge.endpoint.peers


def test_site_is_said_to_be_down_for_the_reason_that_it_has(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(5)
    effects = edge.endpoint.close(net.now)

    assert [each.reason for each in effects if isinstance(each, SiteDown)] == ["this node stops"]
    assert not edge.endpoint.peers
    effects = device.endpoint.configure((), net.now)
    assert [each.reason for each in effects if isinstance(each, SiteDown)] == [
        "removed from the configuration"
    ]


def test_site_that_is_not_changed_keeps_its_tunnel(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(5)
    (before,) = edge.sessions(SEATTLE)
    edge.configure(site(), site(OSLO, peer=OTHER))
    net.run(5)

    assert edge.sessions(SEATTLE) == [before]


def test_changed_secret_authenticates_again_without_a_gap(net: Network, edge: Node, device: Node) -> None:
    changed = Credentials(psk=Secret(b"another secret"))
    device.configure(cloud())
    edge.configure(site())
    net.run(5)
    (before,) = edge.sessions(SEATTLE)
    edge.configure(site(credentials=changed))
    net.run(20)
    assert edge.is_up(SEATTLE)  # by the old secret, while the device does not know the new one
    assert edge.troubles(SEATTLE)
    device.configure(cloud(credentials=changed))
    net.run(60)

    (after,) = edge.sessions(SEATTLE)
    assert after is not before
    assert_one_tunnel(edge, device)


@pytest.mark.parametrize("seed", range(40))
def test_site_that_changes_soon_after_its_device_called_has_no_gap(net: Network, seed: int) -> None:
    edge, device = net.node(EDGE), net.node(DEVICE)
    edge.reboot(2 * seed)
    device.reboot(2 * seed + 1)
    edge.configure(site())
    device.configure(cloud(start=SiteStart.START))
    net.run(seed % 20 * 0.45 + 0.1)
    edge.effects.clear()
    edge.configure(msgspec.structs.replace(site(), liveness=25.0))
    net.run(60)

    assert edge.turns(SEATTLE) == [SiteUp]  # authenticated again, and that once
    assert_one_tunnel(edge, device)


def test_old_secret_ends_after_minutes_where_the_new_one_is_never_accepted(
    net: Network, edge: Node, device: Node
) -> None:
    device.configure(cloud())
    edge.configure(site())
    net.run(5)
    edge.configure(site(credentials=WRONG))
    net.run(400)

    assert not edge.is_up(SEATTLE)
    assert not device.installed


def test_trapped_site_is_called_when_a_packet_wants_to_go_there(
    net: Network, edge: Node, device: Node
) -> None:
    device.configure(cloud())
    edge.configure(site(start=SiteStart.TRAP))
    net.run(100)
    assert not net.log
    edge.take(edge.endpoint.wanted(SEATTLE, net.now))
    edge.take(edge.endpoint.wanted(SEATTLE, net.now))
    net.run(2)

    assert_one_tunnel(edge, device)


def test_trapped_site_whose_child_sa_was_deleted_gets_it_back_with_the_next_packet(
    net: Network, edge: Node, device: Node
) -> None:
    device.configure(cloud())
    edge.configure(site(start=SiteStart.TRAP))
    edge.take(edge.endpoint.wanted(SEATTLE, net.now))
    net.run(2)
    (session,) = device.sessions(HEADQUARTERS)
    assert session.children is not None
    (spi,) = session.children.spis
    device.take(session.children.delete(spi, net.now))
    device.take(session.go_on(net.now))
    net.run(100)
    assert not edge.is_up(SEATTLE)
    for _ in range(3):
        edge.take(edge.endpoint.wanted(SEATTLE, net.now))
    net.run(2)

    assert_one_tunnel(edge, device)


def test_trapped_site_whose_peer_refuses_is_not_called_by_each_packet(
    net: Network, edge: Node, device: Node
) -> None:
    device.configure(cloud(credentials=WRONG))
    edge.configure(site(start=SiteStart.TRAP))
    for _ in range(1000):
        edge.take(edge.endpoint.wanted(SEATTLE, net.now))
        net.run(0.01)
    assert 2 <= len(edge.troubles(SEATTLE)) <= 6
    device.configure(cloud())
    net.run(31)
    edge.take(edge.endpoint.wanted(SEATTLE, net.now))
    net.run(1)

    assert_one_tunnel(edge, device)


def test_responding_site_never_calls(net: Network, edge: Node) -> None:
    edge.configure(site(start=SiteStart.RESPOND))
    edge.take(edge.endpoint.wanted(SEATTLE, net.now))
    net.run(100)

    assert not net.log


def test_wrong_secret_is_told_on_both_sides_and_nothing_is_up(net: Network, edge: Node, device: Node) -> None:
    device.configure(cloud(credentials=WRONG))
    edge.configure(site())
    net.run(5)

    assert not edge.is_up(SEATTLE)
    assert "AUTHENTICATION_FAILED" in edge.troubles(SEATTLE)[0]
    assert "secret" in device.troubles(HEADQUARTERS)[0]


def test_peers_that_dial_in_are_told_apart_by_their_identity(net: Network, edge: Node) -> None:
    red, blue = net.node(DEVICE), net.node(OTHER)
    edge.configure(
        site(SEATTLE, peer=None, start=SiteStart.RESPOND),
        site(OSLO, peer=None, start=SiteStart.RESPOND, credentials=WRONG),
    )
    red.configure(cloud("seattle", start=SiteStart.START))
    blue.configure(cloud("oslo", address=OTHER, start=SiteStart.START, credentials=WRONG))
    net.run(5)

    assert {child.site for child in edge.installed.values()} == {SEATTLE, OSLO}
    assert [str(each.remote_id) for each in (edge.sessions(OSLO)[0].policy,) if each] == ["oslo.example"]


def test_peer_with_another_tenants_identity_and_its_own_secret_gets_nothing(net: Network, edge: Node) -> None:
    blue = net.node(OTHER)
    edge.configure(
        site(SEATTLE, peer=None, start=SiteStart.RESPOND),
        site(OSLO, peer=None, start=SiteStart.RESPOND, credentials=WRONG),
    )
    blue.configure(cloud("seattle", address=OTHER, start=SiteStart.START, credentials=WRONG))
    net.run(5)

    assert not edge.installed


def test_site_that_is_added_may_call_from_where_a_stranger_has_called_before(
    net: Network, edge: Node
) -> None:
    other = net.node(OTHER)
    edge.configure(site())
    other.configure(cloud("oslo", address=OTHER, start=SiteStart.START))
    net.run(5)
    assert not other.installed
    edge.configure(site(), site(OSLO, peer=None, start=SiteStart.RESPOND))
    net.run(60)

    assert_one_tunnel(edge, other, OSLO)


def test_child_sa_that_has_carried_much_is_replaced_and_no_other_sites(net: Network, edge: Node) -> None:
    device, other = net.node(DEVICE), net.node(OTHER)
    device.configure(cloud())
    other.configure(cloud("oslo", address=OTHER))
    edge.configure(site(), site(OSLO, peer=OTHER))
    net.run(5)
    before = {each.site: each for each in edge.installed.values()}
    edge.take(edge.endpoint.expiring(SEATTLE, before[SEATTLE].inbound_spi, net.now))
    net.run(5)

    after = {each.site: each for each in edge.installed.values()}
    assert after[SEATTLE].inbound_spi != before[SEATTLE].inbound_spi
    assert after[OSLO] == before[OSLO]


def test_peer_from_another_address_than_configured_is_not_answered(net: Network, edge: Node) -> None:
    other = net.node(OTHER)
    edge.configure(site())
    other.configure(cloud(address=OTHER, start=SiteStart.START))
    net.run(5)

    assert edge.endpoint.drops[IkeDrop.NO_SITE] > 0
    assert not any(path.remote.address == other.address for path, _ in net.log)


def first_message() -> bytes:
    """What a device with the usual policy sends first."""
    elsewhere = Network()
    elsewhere.node(DEVICE).configure(cloud(start=SiteStart.START))
    return elsewhere.log[-1][1]


def from_(address: ProviderAddress | str, port: int = IKE_PORT) -> Path:
    """A path to the edge, as its sender sees it."""
    local = ProviderAddress.parse(address) if isinstance(address, str) else address
    return Path(Endpoint(local, port), Endpoint(ProviderAddress.parse(EDGE), IKE_PORT))


def test_flood_of_first_messages_costs_bounded_state_and_is_never_answered_with_more(
    net: Network, edge: Node
) -> None:
    edge.configure(site(peer=None, start=SiteStart.RESPOND))
    message = first_message()
    received = 0
    for number in range(5000):
        source = ProviderAddress((0x0A000000 + number).to_bytes(4))
        spi = (number + 1).to_bytes(8)
        net.deliver(from_(source), spi + message[8:])
        received += len(message)

    assert edge.endpoint.half_open <= admission.BUSY
    assert sum(len(answer) for _, answer in net.log) <= received
    net.run(60)
    assert edge.endpoint.half_open == 0
    assert edge.endpoint.is_closed
    assert edge.endpoint.deadline == math.inf


def test_no_answer_to_a_stranger_is_larger_than_what_he_sent(net: Network, edge: Node) -> None:
    edge.configure(site(peer=None, start=SiteStart.RESPOND))
    message = first_message()
    for size in range(len(message) + 1):
        net.log.clear()
        cut = message[:24] + size.to_bytes(4) + message[28:size]
        net.deliver(from_(OTHER), cut[:size])
        assert sum(len(answer) for _, answer in net.log) <= size


def test_strangers_with_offers_that_nobody_takes_are_told_of_seldom(net: Network, edge: Node) -> None:
    edge.configure(site(peer=None, start=SiteStart.RESPOND))
    message = first_message()
    for number in range(500):
        foreign = SecurityAssociation((Proposal(1, Protocol.IKE, b"", (Transform(1, 1000 + number),)),))
        kept = wire.decode_message_untrusted(message)
        payloads = [foreign if isinstance(each, SecurityAssociation) else each for each in kept.payloads]
        source = ProviderAddress((0x0A000000 + number).to_bytes(4))
        net.deliver(from_(source), wire.encode_message(kept.header, (*payloads, VendorId(bytes(200)))))

    assert len(edge.troubles(SEATTLE)) == 1
    assert edge.endpoint.drops[IkeDrop.COOKIE_ASKED] == 400


def test_first_message_that_comes_twice_gets_the_same_answer(net: Network, edge: Node) -> None:
    edge.configure(site(peer=None, start=SiteStart.RESPOND))
    message = first_message()
    net.deliver(from_(DEVICE), message)
    net.deliver(from_(DEVICE), message)

    (_, one), (_, other) = net.log
    assert one == other
    assert edge.endpoint.half_open == 1


def test_device_gets_in_by_a_cookie_while_strangers_flood(net: Network, edge: Node, device: Node) -> None:
    edge.configure(site(peer=None, start=SiteStart.RESPOND))
    device.configure(cloud(start=SiteStart.START))
    message = net.log[-1][1]
    for number in range(500):
        source = ProviderAddress((0x0A000000 + number).to_bytes(4))
        net.deliver(from_(source), (number + 1).to_bytes(8) + message[8:])
    net.run(3)

    assert edge.endpoint.drops[IkeDrop.COOKIE_ASKED] > 0
    assert_one_tunnel(edge, device)


def request_for(spi: bytes, *, major_version: int = 2, is_response: bool = False) -> bytes:
    header = Header(
        bytes(range(1, 9)),
        spi,
        ExchangeType.INFORMATIONAL,
        7,
        is_response=is_response,
        from_initiator=True,
        major_version=major_version,
    )
    from tunnels.ike.wire import encode_header

    return encode_header(header, 128) + bytes(100)


@pytest.mark.parametrize(
    ("message", "notify"),
    [
        (request_for(b"no such!"), NotifyType.INVALID_IKE_SPI),
        (request_for(bytes(8), major_version=3), NotifyType.INVALID_MAJOR_VERSION),
    ],
)
def test_stray_request_is_told_what_is_wrong_but_not_often(
    net: Network, edge: Node, message: bytes, notify: NotifyType
) -> None:
    edge.configure(site())
    net.log.clear()
    for _ in range(1000):
        net.deliver(from_(OTHER), message)

    assert 0 < len(net.log) <= 20
    header = decode_header_untrusted(net.log[0][1])
    assert header.is_response
    assert header.message_id == 7
    assert decode_payloads_untrusted(header.next_payload, net.log[0][1][28:]) == (Notify(notify),)


def test_stray_response_is_never_answered(net: Network, edge: Node) -> None:
    edge.configure(site())
    net.log.clear()
    net.deliver(from_(OTHER), request_for(b"no such!", is_response=True))

    assert not net.log
    assert edge.endpoint.drops[IkeDrop.NO_SESSION] == 1


def test_unknown_identity_and_wrong_secret_cannot_be_told_apart(net: Network, edge: Node) -> None:
    edge.configure(site(SEATTLE, peer=None, start=SiteStart.RESPOND))
    shapes = []
    for name, credentials in (("seattle", WRONG), ("nowhere", WRONG)):
        caller = net.node(DEVICE)
        caller.configure(cloud(name, start=SiteStart.START, credentials=credentials))
        net.log.clear()
        net.run(0.4)
        shapes.append(
            [(str(path), len(message)) for path, message in net.log if path.local.address != caller.address]
        )
        caller.configure()
        net.run(60)

    assert shapes[0] == shapes[1]


def test_stranger_whose_site_is_unknown_is_told_of_without_naming_the_sites(
    net: Network, edge: Node, device: Node
) -> None:
    edge.configure(
        site(SEATTLE, peer=None, start=SiteStart.RESPOND), site(OSLO, peer=None, start=SiteStart.RESPOND)
    )
    device.configure(cloud("nowhere", start=SiteStart.START))
    net.run(0.4)

    (refused,) = [each for each in edge.effects if isinstance(each, StrangerRefused)]
    assert refused.path.remote.address == device.address
    assert "the peer calls itself nowhere.example" in refused.reason
    assert "seattle" not in refused.reason


def test_stranger_that_offers_nothing_acceptable_is_told_of_where_several_sites_could_be_meant(
    net: Network, edge: Node, device: Node
) -> None:
    edge.configure(
        site(SEATTLE, peer=None, start=SiteStart.RESPOND), site(OSLO, peer=None, start=SiteStart.RESPOND)
    )
    old = (
        IkeProposal((Encryption.AES_256_CBC,), (Integrity.SHA2_256,), (Prf.SHA2_256,), (Group.MODP_2048,)),
    )
    device.configure(msgspec.structs.replace(cloud(start=SiteStart.START), ike_proposals=old))
    net.run(0.4)

    (refused,) = [each for each in edge.effects if isinstance(each, StrangerRefused)]
    assert "the peer offered only" in refused.reason


def test_several_children_and_sites_have_spis_of_their_own(net: Network, edge: Node, device: Node) -> None:
    children = tuple(
        ChildPolicy(f"net{number}", selectors(f"10.0.{number}.0/24", "10.20.0.0/16")) for number in range(8)
    )
    mirrored = tuple(
        ChildPolicy(f"net{number}", selectors("10.20.0.0/16", f"10.0.{number}.0/24")) for number in range(8)
    )
    device.configure(msgspec.structs.replace(cloud(), children=mirrored))
    edge.configure(msgspec.structs.replace(site(), children=children))
    net.run(5)

    assert len(edge.installed) == len(device.installed) == 8


def test_failed_proof_costs_its_address_some_tries(net: Network, edge: Node) -> None:
    edge.configure(site(SEATTLE, peer=None, start=SiteStart.RESPOND))
    guesser = net.node(DEVICE)
    net.delay = 0.0
    tries = 0
    for number in range(40):
        guesser.reboot(5000 + number)
        guesser.configure(cloud(start=SiteStart.START, credentials=WRONG))
        before = len(edge.troubles(SEATTLE))
        net.run(0.001)
        tries += len(edge.troubles(SEATTLE)) - before

    assert 1 <= tries <= 12


def test_peer_that_calls_again_and_again_costs_its_address_tries_and_others_do_not(
    net: Network, edge: Node
) -> None:
    device, other = net.node(DEVICE), net.node(OTHER)
    edge.configure(site(peer=None, start=SiteStart.RESPOND), site(OSLO, peer=None, start=SiteStart.RESPOND))
    net.delay = 0.001
    for number in range(50):
        device.reboot(2000 + number)
        device.configure(cloud(start=SiteStart.START))
        net.run(0.01)

    assert edge.turns(SEATTLE).count(SiteUp) < 15
    assert edge.endpoint.drops[IkeDrop.TOO_MANY]
    other.configure(cloud("oslo", address=OTHER, start=SiteStart.START))
    net.run(1)
    assert edge.is_up(OSLO)


def test_identity_that_prints_the_same_is_the_same() -> None:
    assert Identity.parse("seattle.example") == Identity.parse("seattle.example")
