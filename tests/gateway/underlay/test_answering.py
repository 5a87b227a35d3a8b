from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.packets import arp, ip, ndp
from gateway.underlay.answering import (
    ALL_NODES,
    ALL_NODES_MAC,
    FORGOTTEN_AFTER,
    MOST_CONTESTS,
    Contested,
    Contests,
    ToNeighbour,
    announcement,
    answer_arp_untrusted,
    answer_solicitation_untrusted,
)
from policies.addresses import BROADCAST_MAC
from policies.errors import MalformedPacket

OWN_MAC = b"\x02\0\0\0\0\x01"
ASKER_MAC = b"\x02\0\0\0\0\x02"
GROUP_MAC = b"\x33\x33\0\0\0\x01"
HELD = {4: ip_address("198.51.100.7").packed, 6: ip_address("2001:db8::7").packed}
NOT_HELD = {4: ip_address("198.51.100.8").packed, 6: ip_address("2001:db8::8").packed}
ASKER = {4: ip_address("198.51.100.1").packed, 6: ip_address("fe80::1").packed}


def is_held(pa: bytes) -> bool:
    return pa in HELD.values()


def answer_arp(
    target: bytes, *, sender: bytes = ASKER[4], mac: bytes = ASKER_MAC, operation: int = arp.REQUEST
) -> ToNeighbour | None:
    packet = arp.ArpPacket(operation, mac, sender, bytes(6), target).encode()
    return answer_arp_untrusted(packet + bytes(18), OWN_MAC, is_held)


def answer_solicitation(packet: bytes, sender: bytes = ASKER_MAC) -> ToNeighbour | None:
    return answer_solicitation_untrusted(packet, sender, OWN_MAC, is_held)


def solicitation(
    target: bytes, source: bytes = ASKER[6], destination: bytes | None = None, mac: bytes | None = ASKER_MAC
) -> bytes:
    return ndp.encode_solicitation(source, destination or ndp.solicited_node(target), target, mac)


def test_a_request_for_an_address_that_is_held_here_is_answered_to_who_asked_alone() -> None:
    answer = answer_arp(HELD[4])
    assert answer is not None
    assert answer.mac == ASKER_MAC
    assert arp.decode_untrusted(answer.packet) == arp.ArpPacket(
        arp.REPLY, OWN_MAC, HELD[4], ASKER_MAC, ASKER[4]
    )


def test_a_request_for_an_address_that_is_not_held_here_is_not_answered() -> None:
    assert answer_arp(NOT_HELD[4]) is None
    assert answer_solicitation(solicitation(NOT_HELD[6])) is None


def test_an_arp_probe_is_answered_since_the_address_is_taken() -> None:
    answer = answer_arp(HELD[4], sender=bytes(4))
    assert answer is not None
    assert arp.decode_untrusted(answer.packet).target_address == bytes(4)


def test_an_announcement_of_somebody_else_is_contested_and_one_of_ours_is_not() -> None:
    with pytest.raises(Contested):
        answer_arp(HELD[4], sender=HELD[4])
    assert answer_arp(NOT_HELD[4], sender=NOT_HELD[4]) is None
    # Two interfaces of this machine on one link hear each other.
    assert answer_arp(HELD[4], sender=HELD[4], mac=OWN_MAC) is None


def test_only_a_machine_that_says_again_that_it_has_an_address_contests_it() -> None:
    contests = Contests()
    assert not contests.is_lasting(HELD[4], 100)
    assert not contests.is_lasting(HELD[4], 100.5)
    assert contests.is_lasting(HELD[4], 102)
    assert not contests.is_lasting(NOT_HELD[4], 102)
    assert not contests.is_lasting(HELD[4], 102 + FORGOTTEN_AFTER)
    for number in range(2 * MOST_CONTESTS):
        assert not contests.is_lasting(number.to_bytes(4), 200)


@pytest.mark.parametrize("mac", [BROADCAST_MAC, GROUP_MAC])
def test_nobody_is_made_to_answer_to_a_group(mac: bytes) -> None:
    with pytest.raises(MalformedPacket):
        answer_arp(HELD[4], mac=mac)
    with pytest.raises(MalformedPacket):
        answer_solicitation(solicitation(HELD[6], mac=mac))


def test_an_arp_reply_is_no_question() -> None:
    with pytest.raises(MalformedPacket):
        answer_arp(HELD[4], operation=arp.REPLY)


def test_a_solicitation_of_an_address_that_is_held_here_is_answered_to_who_asked_alone() -> None:
    answer = answer_solicitation(solicitation(HELD[6]))
    assert answer is not None
    assert answer.mac == ASKER_MAC
    said = ndp.decode_advertisement_untrusted(answer.packet, ip.decode_untrusted(answer.packet))
    assert (said.source, said.destination, said.target) == (HELD[6], ASKER[6], HELD[6])
    assert said.target_mac == OWN_MAC
    assert (said.router, said.solicited, said.override) == (False, True, True)


def test_a_solicitation_that_names_no_mac_is_answered_to_where_it_came_from() -> None:
    # RFC 4861 section 4.3: one to the address itself may leave the option out.
    answer = answer_solicitation(solicitation(HELD[6], destination=HELD[6], mac=None), b"\x02\0\0\0\0\x03")
    assert answer is not None
    assert answer.mac == b"\x02\0\0\0\0\x03"


def test_duplicate_address_detection_is_answered_to_everybody() -> None:
    answer = answer_solicitation(solicitation(HELD[6], source=bytes(16), mac=None))
    assert answer is not None
    assert answer.mac == ALL_NODES_MAC
    said = ndp.decode_advertisement_untrusted(answer.packet, ip.decode_untrusted(answer.packet))
    assert (said.destination, said.solicited) == (ALL_NODES, False)


def test_a_solicitation_from_beyond_the_link_is_malformed() -> None:
    packet = bytearray(solicitation(HELD[6]))
    packet[7] = 254
    with pytest.raises(MalformedPacket):
        answer_solicitation(bytes(packet))


def test_an_announcement_is_for_everybody() -> None:
    said = announcement(HELD[4], OWN_MAC)
    assert said.mac == BROADCAST_MAC
    assert arp.decode_untrusted(said.packet) == arp.ArpPacket(
        arp.REQUEST, OWN_MAC, HELD[4], bytes(6), HELD[4]
    )
    said = announcement(HELD[6], OWN_MAC)
    assert said.mac == ALL_NODES_MAC
    advertised = ndp.decode_advertisement_untrusted(said.packet, ip.decode_untrusted(said.packet))
    assert (advertised.target, advertised.target_mac) == (HELD[6], OWN_MAC)
    assert (advertised.solicited, advertised.override) == (False, True)


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda packet, at, octet: packet[:at] + bytes([octet]) + packet[at + 1 :],
        st.sampled_from(
            [solicitation(HELD[6]), arp.ArpPacket(1, ASKER_MAC, ASKER[4], bytes(6), HELD[4]).encode()]
        ),
        st.integers(0, 80),
        st.integers(0, 255),
    )
)
def test_whatever_is_asked_is_answered_or_refused(packet: bytes) -> None:
    with suppress(MalformedPacket, Contested):
        answer_arp_untrusted(packet, OWN_MAC, is_held)
    with suppress(MalformedPacket):
        answer_solicitation(packet)
