"""Any bytes decode as IKE or raise MalformedPacket; what was decoded can be encoded, and reads the same."""

from __future__ import annotations

import pytest

from policies.errors import MalformedPacket
from tests.fuzz.decoding import Target, fuzz
from tests.tunnels.ike import messages as m
from tunnels.ike import names, proposal_wire, selector_wire, wire
from tunnels.ike.constants import IdType, PayloadType
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import SecurityAssociation, TrafficSelectors
from tunnels.ike.rejected import UnsupportedCriticalPayload


def read_message(datagram: bytes) -> None:
    try:
        message = wire.decode_message_untrusted(datagram)
    except UnsupportedCriticalPayload:
        return
    again = wire.encode_message(message.header, message.payloads)
    assert wire.decode_message_untrusted(again) == message


def read_offer(body: bytes) -> None:
    offer = proposal_wire.decode_untrusted(body)
    assert proposal_wire.decode_untrusted(proposal_wire.encode(offer)) == offer


def read_selectors(body: bytes) -> None:
    selectors = selector_wire.decode_untrusted(body)
    assert selector_wire.decode_untrusted(selector_wire.encode(selectors)) == selectors
    assert all(str(each) for each in selectors if each.version == 4)
    assert all(each.within(each) == each for each in selectors)


def read_name(data: bytes) -> None:
    identity = Identity(IdType.DER_DN, data)
    assert identity.matches(identity)
    assert str(identity).isprintable()
    names.shown(names.folded(names.decode_untrusted(data)))


def right_lengths(datagram: bytearray) -> None:
    """End the chain of payloads where it breaks, and put the lengths of payload and message right."""
    position, has_more = wire.HEADER_LENGTH, len(datagram) > 16 and datagram[16] != 0
    while has_more and position + 4 <= len(datagram):
        length = int.from_bytes(datagram[position + 2 : position + 4])
        if not 4 <= length < len(datagram) - position:
            datagram[position] = 0
            datagram[position + 2 : position + 4] = (len(datagram) - position).to_bytes(2)
            break
        has_more = datagram[position] != 0
        position += length
    if len(datagram) >= wire.HEADER_LENGTH:
        datagram[24:28] = len(datagram).to_bytes(4)


MESSAGES = [m.with_header(payloads) for payloads in m.CHAINS_OF_PEERS]
PAYLOADS = [payload for chain in m.CHAINS_OF_PEERS for payload in chain]
OFFERS = [proposal_wire.encode(each) for each in PAYLOADS if isinstance(each, SecurityAssociation)]
SELECTORS = [selector_wire.encode(each.selectors) for each in PAYLOADS if isinstance(each, TrafficSelectors)]
NAMES = [
    Identity.parse(text).data
    for text in (
        "C=CH, O=Red, CN=edge-1.example",
        "DC=example, DC=red, CN=paris+SERIALNUMBER=7, E=a@b.example",
    )
]
TARGETS = {
    "message": Target(read_message, MESSAGES, right_lengths),
    "offer": Target(read_offer, OFFERS),
    "selectors": Target(read_selectors, SELECTORS),
    "name": Target(read_name, NAMES),
}


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_decode_or_are_malformed(name: str) -> None:
    fuzz(name, TARGETS[name], seed=7296)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_any_of_millions_of_bytes_decode_or_are_malformed(name: str) -> None:
    fuzz(name, TARGETS[name], seed=5996)


def test_corpus_holds_every_payload_that_we_read() -> None:
    kinds = {wire.encode_payloads([payload])[0] for payload in PAYLOADS}

    assert kinds == set(PayloadType) - {
        PayloadType.NONE,
        PayloadType.ENCRYPTED,
        PayloadType.ENCRYPTED_FRAGMENT,
        PayloadType.EXTENSIBLE_AUTHENTICATION,
    }


def test_lengths_of_a_broken_chain_are_put_right() -> None:
    broken = bytearray(MESSAGES[0][:-10])
    with pytest.raises(MalformedPacket):
        wire.decode_message_untrusted(bytes(broken))

    right_lengths(broken)

    assert wire.decode_message_untrusted(bytes(broken)).payloads[:-1] == m.SA_INIT[:-1]
