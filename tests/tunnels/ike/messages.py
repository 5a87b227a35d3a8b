"""Payloads and messages for tests: any that hypothesis thinks of, and some that peers really send."""

from __future__ import annotations

from hypothesis import strategies as st

from policies.selectors import TrafficSelector
from tunnels.ike import wire
from tunnels.ike.constants import (
    AuthMethod,
    CertificateEncoding,
    ExchangeType,
    IdType,
    NotifyType,
    PayloadType,
    Protocol,
    TransformType,
)
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

OCTET = st.integers(0, 0xFF)
WORD = st.integers(0, 0xFFFF)
SOME = st.binary(max_size=40)

UNKNOWN_ATTRIBUTES = (
    b"",
    bytes.fromhex("800f0001"),
    bytes.fromhex("0010 0003 abcdef"),
    bytes.fromhex("800e0080"),
)
TRANSFORMS = st.one_of(
    st.builds(Transform, OCTET, WORD),
    st.builds(Transform, OCTET, WORD, WORD, st.sampled_from(UNKNOWN_ATTRIBUTES)),
)
PROPOSALS = st.sampled_from((Protocol.IKE, Protocol.AH, Protocol.ESP, 9)).flatmap(
    lambda protocol: st.builds(
        Proposal,
        OCTET,
        st.just(protocol),
        st.one_of(*(st.binary(min_size=size, max_size=size) for size in SPI_SIZES[protocol])),
        st.lists(TRANSFORMS, max_size=6).map(tuple),
    )
)
SPI_SIZES: dict[int, tuple[int, ...]] = {
    Protocol.IKE: (0, 8),
    Protocol.AH: (4,),
    Protocol.ESP: (4,),
    9: (0, 3, 255),
}

PORTS = st.one_of(
    st.tuples(WORD, WORD).map(lambda pair: (min(pair), max(pair))), st.just((0xFFFF, 0)), st.just((0, 0xFFFF))
)


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    size = draw(st.sampled_from((4, 16)))
    address = st.binary(min_size=size, max_size=size)
    start, end = sorted((draw(address), draw(address)))
    return TrafficSelector(start, end, draw(OCTET), *draw(PORTS))


IDENTIFICATIONS = st.one_of(
    st.builds(Identification, st.booleans(), st.just(IdType.IPV4_ADDRESS), st.binary(min_size=4, max_size=4)),
    st.builds(
        Identification, st.booleans(), st.just(IdType.IPV6_ADDRESS), st.binary(min_size=16, max_size=16)
    ),
    st.builds(
        Identification,
        st.booleans(),
        OCTET.filter(lambda kind: kind not in (IdType.IPV4_ADDRESS, IdType.IPV6_ADDRESS)),
        SOME,
        st.binary(min_size=3, max_size=3),
    ),
)
DELETES = st.one_of(
    st.just(Delete(Protocol.IKE)),
    st.builds(
        Delete,
        st.sampled_from((Protocol.AH, Protocol.ESP)),
        st.lists(st.binary(min_size=4, max_size=4), max_size=9).map(tuple),
    ),
)
UNUSED = st.sampled_from(
    (PayloadType.CONFIGURATION, PayloadType.EXTENSIBLE_AUTHENTICATION, 1, 32, 49, 54, 128, 255)
)
PAYLOADS: st.SearchStrategy[Payload] = st.one_of(
    st.builds(SecurityAssociation, st.lists(PROPOSALS, min_size=1, max_size=4).map(tuple)),
    st.builds(KeyExchange, WORD, SOME),
    IDENTIFICATIONS,
    st.builds(Certificate, OCTET, SOME),
    st.builds(CertificateRequest, OCTET, SOME),
    st.builds(Authentication, OCTET, SOME),
    st.builds(Nonce, st.binary(min_size=16, max_size=256)),
    st.builds(Notify, WORD, SOME, OCTET, st.binary(max_size=8)),
    DELETES,
    st.builds(VendorId, SOME),
    st.builds(TrafficSelectors, st.booleans(), st.lists(selectors(), max_size=5).map(tuple)),
    st.builds(Unknown, UNUSED, SOME),
)
CHAINS = st.lists(PAYLOADS, max_size=8).map(tuple)
SPIS = st.binary(min_size=8, max_size=8)
HEADERS = st.builds(
    Header,
    SPIS.filter(any),
    SPIS,
    OCTET,
    st.integers(0, 0xFFFFFFFF),
    is_response=st.booleans(),
    from_initiator=st.booleans(),
    major_version=st.integers(0, 15),
)

AES_GCM_256 = Transform(TransformType.ENCRYPTION, 20, 256)
AES_CBC_128 = Transform(TransformType.ENCRYPTION, 12, 128)
SHA2_256 = Transform(TransformType.INTEGRITY, 12)
PRF_SHA2_256 = Transform(TransformType.PRF, 5)
X25519 = Transform(TransformType.KEY_EXCHANGE, 31)
MODP_2048 = Transform(TransformType.KEY_EXCHANGE, 14)
WITH_ESN = Transform(TransformType.SEQUENCE_NUMBERS, 1)
WITHOUT_ESN = Transform(TransformType.SEQUENCE_NUMBERS, 0)

V4_SELECTOR = TrafficSelector(bytes((10, 1, 0, 0)), bytes((10, 1, 255, 255)))
V6_SELECTOR = TrafficSelector(
    bytes.fromhex("fd000001" + "00" * 12), bytes.fromhex("fd000001" + "ff" * 12), 6, 80, 80
)

HEADER = Header(b"initiate", b"respond!", ExchangeType.IKE_AUTH, 1, is_response=False, from_initiator=True)
FIRST_HEADER = Header(
    b"initiate", bytes(8), ExchangeType.IKE_SA_INIT, 0, is_response=False, from_initiator=True
)

SA_INIT: tuple[Payload, ...] = (
    Notify(NotifyType.COOKIE, bytes(range(24))),
    SecurityAssociation(
        (
            Proposal(1, Protocol.IKE, b"", (AES_GCM_256, PRF_SHA2_256, X25519, MODP_2048)),
            Proposal(2, Protocol.IKE, b"", (AES_CBC_128, SHA2_256, PRF_SHA2_256, X25519)),
        )
    ),
    KeyExchange(31, bytes(range(32))),
    Nonce(bytes(range(32))),
    Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(range(20))),
    Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(range(20, 40))),
    Notify(NotifyType.FRAGMENTATION_SUPPORTED),
    Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, bytes.fromhex("000200030004")),
    VendorId(b"somebody's gateway, version 5"),
)
AUTH: tuple[Payload, ...] = (
    Identification(True, IdType.FQDN, b"seattle.example"),
    Certificate(CertificateEncoding.X509_SIGNATURE, bytes(range(100))),
    Notify(NotifyType.INITIAL_CONTACT),
    CertificateRequest(CertificateEncoding.X509_SIGNATURE, bytes(range(40))),
    Identification(False, IdType.IPV4_ADDRESS, bytes((192, 0, 2, 254))),
    Authentication(AuthMethod.DIGITAL_SIGNATURE, bytes(range(80))),
    Unknown(PayloadType.CONFIGURATION, bytes.fromhex("0100000000010000")),
    SecurityAssociation((Proposal(1, Protocol.ESP, b"\xc0\1\2\3", (AES_GCM_256, WITH_ESN, WITHOUT_ESN)),)),
    TrafficSelectors(True, (V4_SELECTOR, V6_SELECTOR)),
    TrafficSelectors(False, (V6_SELECTOR,)),
    Notify(16396, b""),
)
REKEY: tuple[Payload, ...] = (
    Notify(NotifyType.REKEY_SA, b"", Protocol.ESP, b"\xc0\1\2\3"),
    SecurityAssociation((Proposal(1, Protocol.ESP, b"\xc0\1\2\4", (AES_GCM_256, X25519, WITHOUT_ESN)),)),
    Nonce(bytes(range(16))),
    KeyExchange(31, bytes(range(32))),
    TrafficSelectors(True, (V4_SELECTOR,)),
    TrafficSelectors(False, (V4_SELECTOR,)),
)
REKEY_IKE: tuple[Payload, ...] = (
    SecurityAssociation((Proposal(1, Protocol.IKE, b"new spi!", (AES_GCM_256, PRF_SHA2_256, X25519)),)),
    Nonce(bytes(range(32))),
    KeyExchange(31, bytes(range(32))),
)
DELETION: tuple[Payload, ...] = (Delete(Protocol.ESP, (b"\xc0\1\2\3", b"\xc0\1\2\4")), Delete(Protocol.IKE))
CHAINS_OF_PEERS = (SA_INIT, AUTH, REKEY, REKEY_IKE, DELETION)


def with_header(payloads: tuple[Payload, ...]) -> bytes:
    """A whole message in the clear."""
    return wire.encode_message(FIRST_HEADER if payloads is SA_INIT else HEADER, payloads)


def payload(kind: int, content: bytes, *, following: int = 0, flags: int = 0) -> bytes:
    """One payload behind its generic header, whatever is in it."""
    return bytes((following, flags)) + (4 + len(content)).to_bytes(2) + content
