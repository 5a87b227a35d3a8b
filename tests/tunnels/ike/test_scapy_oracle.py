"""scapy as an independent oracle: we read what it builds, and it reads what we build."""

from __future__ import annotations

import ipaddress
from functools import reduce
from operator import truediv
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib import ikev2
from scapy.packet import NoPayload, Packet

from policies.selectors import TrafficSelector
from tests.tunnels.ike import messages as m
from tunnels.ike import wire
from tunnels.ike.constants import PayloadType
from tunnels.ike.payloads import (
    Authentication,
    Certificate,
    CertificateRequest,
    Delete,
    Header,
    Identification,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelectors,
    Transform,
    Unknown,
    VendorId,
)

# What scapy gives back in another form: it parses certificates, and redirection has fields of its own.
CERTIFICATES_THAT_SCAPY_PARSES = (4, 7)
NOTIFICATIONS_THAT_SCAPY_PARSES = (16407, 16408)


def layers(packet: Packet) -> list[Packet]:
    found = []
    while not isinstance(packet, NoPayload):
        found.append(packet)
        packet = packet.payload
    return found


def transform_to_scapy(transform: Transform) -> Packet:
    fields: dict[str, Any] = {"transform_type": transform.type, "transform_id": transform.id}
    if transform.key_length is not None:
        fields |= {"length": 12, "key_length": transform.key_length}
    return ikev2.IKEv2_Transform(**fields)


def proposal_to_scapy(proposal: Proposal) -> Packet:
    transforms = [transform_to_scapy(each) for each in proposal.transforms]
    return ikev2.IKEv2_Proposal(
        proposal=proposal.number,
        proto=proposal.protocol,
        SPI=proposal.spi,
        trans_nb=len(transforms),
        trans=reduce(truediv, transforms),
    )


def selector_to_scapy(selector: TrafficSelector) -> Packet:
    kind, suffix, length = {
        4: (ikev2.IPv4TrafficSelector, "v4", 16),
        6: (ikev2.IPv6TrafficSelector, "v6", 40),
    }[selector.version]
    return kind(
        IP_protocol_ID=selector.protocol,
        length=length,
        start_port=selector.start_port,
        end_port=selector.end_port,
        **{
            f"starting_address_{suffix}": str(ipaddress.ip_address(selector.start)),
            f"ending_address_{suffix}": str(ipaddress.ip_address(selector.end)),
        },
    )


def to_scapy(payload: Payload) -> Packet:
    match payload:
        case SecurityAssociation(proposals):
            return ikev2.IKEv2_SA(prop=reduce(truediv, map(proposal_to_scapy, proposals)))
        case KeyExchange(group, data):
            return ikev2.IKEv2_KE(group=group, ke=data)
        case Identification(of_initiator, kind, data, reserved):
            named = str(ipaddress.ip_address(data)) if kind in (1, 5) else data
            layer = ikev2.IKEv2_IDi if of_initiator else ikev2.IKEv2_IDr
            return layer(IDtype=kind, ID=named, res2=int.from_bytes(reserved))
        case Certificate(encoding, data):
            return ikev2.IKEv2_CERT(cert_encoding=encoding, cert_data=data)
        case CertificateRequest(encoding, authorities):
            return ikev2.IKEv2_CERTREQ(cert_encoding=encoding, cert_authority=authorities)
        case Authentication(method, data):
            return ikev2.IKEv2_AUTH(auth_type=method, load=data)
        case Nonce(data):
            return ikev2.IKEv2_Nonce(nonce=data)
        case Notify(kind, data, protocol, spi):
            return ikev2.IKEv2_Notify(type=kind, notify=data, proto=protocol, SPI=spi)
        case Delete(protocol, spis):
            size = len(spis[0]) if spis else 0
            return ikev2.IKEv2_Delete(proto=protocol, SPIsize=size, SPInum=len(spis), SPI=list(spis))
        case VendorId(data):
            return ikev2.IKEv2_VendorID(vendorID=data)
        case TrafficSelectors(of_initiator, selectors):
            layer = ikev2.IKEv2_TSi if of_initiator else ikev2.IKEv2_TSr
            return layer(
                number_of_TSs=len(selectors), traffic_selector=[selector_to_scapy(each) for each in selectors]
            )
        case Unknown(_, data):
            return ikev2.IKEv2_EAP(load=data)


def from_scapy(layer: Any) -> Payload:
    """The payload that scapy has read, as one of ours."""
    match layer.name:
        case "IKEv2 SA":
            return SecurityAssociation(tuple(map(proposal_from_scapy, layers(layer.prop))))
        case "IKEv2 Key Exchange":
            return KeyExchange(layer.group, layer.ke)
        case "IKEv2 Identification - Initiator" | "IKEv2 Identification - Responder":
            data = ipaddress.ip_address(layer.ID).packed if layer.IDtype in (1, 5) else layer.ID
            return Identification(
                isinstance(layer, ikev2.IKEv2_IDi), layer.IDtype, data, layer.res2.to_bytes(3)
            )
        case "IKEv2 Certificate":
            return Certificate(layer.cert_encoding, layer.cert_data)
        case "IKEv2 Certificate Request":
            return CertificateRequest(layer.cert_encoding, layer.cert_authority)
        case "IKEv2 Authentication":
            return Authentication(layer.auth_type, layer.load)
        case "IKEv2 Nonce":
            return Nonce(layer.nonce)
        case "IKEv2 Notify":
            return Notify(layer.type, layer.notify, layer.proto, layer.SPI)
        case "IKEv2 Delete":
            return Delete(layer.proto, tuple(layer.SPI))
        case "IKEv2 Vendor ID":
            return VendorId(layer.vendorID)
        case "IKEv2 Traffic Selector - Initiator" | "IKEv2 Traffic Selector - Responder":
            return TrafficSelectors(
                isinstance(layer, ikev2.IKEv2_TSi), tuple(map(selector_from_scapy, layer.traffic_selector))
            )
        case "IKEv2 Extensible Authentication":
            return Unknown(PayloadType.EXTENSIBLE_AUTHENTICATION, layer.load)
    raise ValueError(f"scapy read a {layer.name}")


def proposal_from_scapy(layer: Any) -> Proposal:
    transforms = layers(layer.trans)
    assert layer.trans_nb == len(transforms)
    return Proposal(layer.proposal, layer.proto, layer.SPI, tuple(map(transform_from_scapy, transforms)))


def transform_from_scapy(layer: Any) -> Transform:
    return Transform(layer.transform_type, layer.transform_id, layer.key_length if layer.length > 8 else None)


def selector_from_scapy(layer: Any) -> TrafficSelector:
    suffix = "v4" if layer.TS_type == 7 else "v6"
    start, end = (getattr(layer, f"{which}_address_{suffix}") for which in ("starting", "ending"))
    return TrafficSelector(
        ipaddress.ip_address(start).packed,
        ipaddress.ip_address(end).packed,
        layer.IP_protocol_ID,
        layer.start_port,
        layer.end_port,
    )


def both_can_say(payload: Payload) -> bool:
    match payload:
        case SecurityAssociation(proposals):
            return all(
                each.transforms and all(not one.unknown_attributes for one in each.transforms)
                for each in proposals
            )
        case Certificate(encoding, _):
            return encoding not in CERTIFICATES_THAT_SCAPY_PARSES
        case Notify(kind, _, _, _):
            return kind not in NOTIFICATIONS_THAT_SCAPY_PARSES
        case Delete(_, spis):
            return bool(spis)
        case Unknown(kind, _):
            return kind == PayloadType.EXTENSIBLE_AUTHENTICATION
    return True


CHAINS = st.lists(m.PAYLOADS.filter(both_can_say), min_size=1, max_size=6).map(tuple)
HEADERS = m.HEADERS.filter(lambda header: header.major_version >= 2)


@given(HEADERS, CHAINS)
def test_scapy_reads_what_we_encode(header: Header, payloads: tuple[Payload, ...]) -> None:
    first, *rest = layers(ikev2.IKEv2(wire.encode_message(header, payloads)))

    assert tuple(map(from_scapy, rest)) == payloads
    assert (first.init_SPI, first.resp_SPI) == (header.initiator_spi, header.responder_spi)
    assert (first.exch_type, first.id, first.version) == (
        header.exchange,
        header.message_id,
        header.major_version << 4,
    )
    assert (bool(first.flags.Initiator), bool(first.flags.Response)) == (
        header.from_initiator,
        header.is_response,
    )


@given(HEADERS, CHAINS)
def test_we_read_what_scapy_builds(header: Header, payloads: tuple[Payload, ...]) -> None:
    flags = "Initiator" * header.from_initiator + "+" * header.from_initiator * header.is_response
    first = ikev2.IKEv2(
        init_SPI=header.initiator_spi,
        resp_SPI=header.responder_spi,
        exch_type=header.exchange,
        flags=flags + "Response" * header.is_response,
        id=header.message_id,
        version=header.major_version << 4,
    )
    datagram = bytes(reduce(truediv, map(to_scapy, payloads), first))

    message = wire.decode_message_untrusted(datagram)

    assert message.payloads == payloads
    assert datagram == wire.encode_message(message.header, payloads)


@pytest.mark.parametrize("payloads", m.CHAINS_OF_PEERS)
def test_scapy_finds_the_same_payloads_in_messages_of_peers(payloads: tuple[Payload, ...]) -> None:
    kinds = [layer.name for layer in layers(ikev2.IKEv2(m.with_header(payloads)))[1:]]

    assert len(kinds) == len(payloads)
    assert "Raw" not in kinds
