from __future__ import annotations

import pytest

from policies.errors import MalformedPacket
from tunnels.ike import names
from tunnels.ike.constants import IdType
from tunnels.ike.identities import Identity


def element(kind: int, content: bytes) -> bytes:
    return bytes((kind, 0x82)) + len(content).to_bytes(2) + content


def name_of_type(oid: bytes) -> bytes:
    """A name with one attribute, of this type in DER."""
    pair = element(0x30, element(0x06, oid) + element(0x0C, b"value"))
    return element(0x30, element(0x31, pair))


def test_name_with_a_type_of_thousands_of_digits_is_malformed() -> None:
    """Python does not write such numbers."""
    endless = name_of_type(b"\xff" * 3000 + b"\1")

    with pytest.raises(MalformedPacket):
        names.decode_untrusted(endless)
    assert str(Identity(IdType.DER_DN, endless)).startswith("identity of type 9")


def test_name_with_a_long_type_is_read() -> None:
    ((attribute,),) = names.decode_untrusted(name_of_type(b"\x2a" + b"\xff" * 62 + b"\1"))

    assert attribute[0].startswith("1.2.")
    assert attribute[1] == "value"


def test_name_of_thousands_of_octets_is_malformed() -> None:
    empty = element(0x31, b"")

    assert len(names.decode_untrusted(element(0x30, empty * 1000))) == 1000
    with pytest.raises(MalformedPacket):
        names.decode_untrusted(element(0x30, empty * 1100))
