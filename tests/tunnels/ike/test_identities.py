from __future__ import annotations

from collections import Counter

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import MalformedPacket
from tests.tunnels.ike import pki
from tunnels.ike import identities, names
from tunnels.ike.constants import IdType
from tunnels.ike.identities import Identity


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("gw.red.example", IdType.FQDN, b"gw.red.example"),
        ("edge-1", IdType.FQDN, b"edge-1"),
        ("gw@red.example", IdType.RFC822_ADDRESS, b"gw@red.example"),
        ("192.0.2.7", IdType.IPV4_ADDRESS, bytes((192, 0, 2, 7))),
        ("2001:db8::7", IdType.IPV6_ADDRESS, bytes.fromhex("20010db8000000000000000000000007")),
        ("keyid:0badcafe", IdType.KEY_ID, bytes.fromhex("0badcafe")),
    ],
)
def test_identity_is_what_its_text_looks_like(text: str, kind: IdType, data: bytes) -> None:
    assert Identity.parse(text) == Identity(kind, data)
    assert str(Identity.parse(text)) == text


def test_distinguished_name_is_encoded_in_the_order_it_is_written() -> None:
    identity = Identity.parse("C=DE, O=Red, CN=gw")

    assert identity.type == IdType.DER_DN
    assert identity.data.hex() == (
        "3028"
        "310b3009060355040613024445"  # a PrintableString
        "310c300a060355040a0c03526564"
        "310b300906035504030c026777"
    )
    assert str(identity) == "C=DE, O=Red, CN=gw"


@pytest.mark.parametrize(
    "text", ["", "two words", "gr\u00fcezi.example", "keyid:", "keyid:abc", "CN=", "XY=gw", "CN=gw,", "a\nb"]
)
def test_text_that_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Identity.parse(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gw.red.example", "GW.Red.EXAMPLE"),
        ("gw@red.example", "gw@RED.example"),
        ("2001:db8::7", "2001:DB8:0:0::7"),
        ("C=DE, O=Red, CN=gw", "c=de,o=RED,cn=GW"),
        ("O=Red  Ltd, CN=gw", "O=Red Ltd, CN=gw"),
        ("CN=gw+OU=vpn", "OU=vpn+CN=gw"),
    ],
)
def test_identities_of_the_same_meaning_match(first: str, second: str) -> None:
    assert Identity.parse(first).matches(Identity.parse(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gw.red.example", "gw.red.example.org"),
        ("gw@red.example", "GW@red.example"),
        ("gw@red.example", "gw.red.example"),
        ("keyid:6777", "gw"),
        ("C=DE, O=Red, CN=gw", "CN=gw, O=Red, C=DE"),
        ("C=DE, O=Red, CN=gw", "C=DE, O=Red"),
        ("CN=gw+OU=vpn", "CN=gw, OU=vpn"),
        ("CN=gw", "gw"),
        ("192.0.2.7", "192.0.2.70"),
    ],
)
def test_other_identities_do_not_match(first: str, second: str) -> None:
    assert not Identity.parse(first).matches(Identity.parse(second))
    assert not Identity.parse(second).matches(Identity.parse(first))


def test_text_of_an_address_is_not_the_address() -> None:
    assert not Identity(IdType.FQDN, b"192.0.2.7").matches(Identity.parse("192.0.2.7"))


def test_names_match_whatever_kind_of_string_carries_them() -> None:
    kinds = (
        x509.name._ASN1Type.PrintableString,
        x509.name._ASN1Type.UTF8String,
        x509.name._ASN1Type.T61String,
    )
    encoded = {
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw", kind)]).public_bytes() for kind in kinds
    }

    assert len(encoded) == 3
    assert all(Identity(IdType.DER_DN, each).matches(Identity.parse("CN=gw")) for each in encoded)


def test_certificate_names_its_subject_and_its_alternative_names() -> None:
    holder = pki.make("CN=gw", alternative=["gw.red.example", "gw@red.example", "192.0.2.7", "2001:db8::7"])

    assert list(map(str, identities.identities_of(holder.certificate))) == [
        "CN=gw",
        "gw.red.example",
        "gw@red.example",
        "192.0.2.7",
        "2001:db8::7",
    ]


def test_commas_in_a_name_are_written_behind_a_backslash() -> None:
    identity = Identity.parse(r"O=Red\, Ltd, CN=gw")

    assert names.decode_untrusted(identity.data) == (
        (("2.5.4.10", "Red, Ltd"),),
        (("2.5.4.3", "gw"),),
    )
    assert str(identity) == r"O=Red\, Ltd, CN=gw"


@given(st.integers(0, 255), st.binary(max_size=64))
def test_any_octets_that_a_peer_sends_can_be_shown_and_compared(kind: int, data: bytes) -> None:
    identity = Identity(kind, data)

    assert str(identity).isprintable()
    assert identity.matches(identity)
    for text in ("gw.red.example", "CN=gw", "keyid:00", "192.0.2.7"):
        expected = Identity.parse(text)
        assert identity.matches(expected) == expected.matches(identity)


def test_a_long_name_is_read_once_and_not_for_each_site(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, read = names.decode_untrusted, Counter[bytes]()

    def counted(data: bytes) -> names.Name:
        read[data] += 1
        return decode(data)

    monkeypatch.setattr(names, "decode_untrusted", counted)
    long = Identity.parse(", ".join(["OU=strangers"] * 90))
    sites = [Identity.parse(f"CN=site-{number}") for number in range(20)]

    assert not any(each.matches(long) for each in sites)
    assert read[long.data] == 1


def test_name_cut_anywhere_is_malformed() -> None:
    whole = Identity.parse("C=DE, O=Red, CN=gw").data

    for end in range(len(whole)):
        with pytest.raises(MalformedPacket):
            names.decode_untrusted(whole[:end])
    with pytest.raises(MalformedPacket):
        names.decode_untrusted(whole + b"\0")
