"""The Diffie-Hellman groups: public values as they are on the wire, and what two of them share.

Checked as RFC 6989 section 2 asks: a point must be on its curve, a number in its range.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, x25519

from policies.ipsec import Group
from policies.secret import Secret
from tunnels.ike.constants import NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.rejected import Refused

# RFC 3526 section 3: 2^2048 - 2^1984 - 1 + 2^64 * { [2^1918 pi] + 124476 }.
_PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
    "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
_PRIME_OCTETS = 256
_EXPONENT_OCTETS = 32  # RFC 3526 section 8 asks for 220 to 320 bits

_CURVES: dict[Group, tuple[ec.EllipticCurve, int]] = {
    Group.ECP_256: (
        ec.SECP256R1(),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    Group.ECP_384: (
        ec.SECP384R1(),
        int(
            "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
            16,
        ),
    ),
    Group.ECP_521: (
        ec.SECP521R1(),
        int(
            "1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
            "A51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409",
            16,
        ),
    ),
}
"""Each curve with the order of its base point (FIPS 186-4 appendix D.1.2)."""


class PrivateValue(Protocol):
    """Our half of an exchange in one group."""

    def public(self) -> bytes:
        """Return our public value as the KE payload carries it."""

    def shared(self, peer_public: bytes) -> Secret:
        """Return the shared secret; raise Refused for a public value that is not valid."""


def private_value(group: Group, entropy: Entropy) -> PrivateValue:
    """Return a fresh private value of the group. Raises ValueError for `Group.NONE`."""
    if group is Group.X25519:
        return X25519Value(entropy.octets(32))
    if group is Group.MODP_2048:
        return ModpValue(int.from_bytes(entropy.octets(_EXPONENT_OCTETS)))
    if group not in _CURVES:
        raise ValueError(f"{group} is no group to exchange keys in")
    curve, order = _CURVES[group]
    # 64 bits more than needed leave no bias that matters (FIPS 186-5 appendix A.2.1).
    drawn = int.from_bytes(entropy.octets((order.bit_length() + 7) // 8 + 8))
    return CurveValue(group, ec.derive_private_key(drawn % (order - 1) + 1, curve))


class X25519Value:
    """Group 31 (RFC 8031)."""

    def __init__(self, secret: bytes) -> None:
        self._key = x25519.X25519PrivateKey.from_private_bytes(secret)

    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> Secret:
        try:
            # An all-zero result gives the secret away (RFC 7748 section 6.1).
            return Secret(self._key.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public)))
        except ValueError:
            raise _invalid(Group.X25519, peer_public) from None


class CurveValue:
    """Groups 19 to 21: a point is x and y, what is shared is x (RFC 5903 section 7)."""

    def __init__(self, group: Group, key: ec.EllipticCurvePrivateKey) -> None:
        self._group, self._key = group, key
        self._octets = (key.curve.key_size + 7) // 8

    def public(self) -> bytes:
        point = self._key.public_key().public_numbers()
        return point.x.to_bytes(self._octets) + point.y.to_bytes(self._octets)

    def shared(self, peer_public: bytes) -> Secret:
        if len(peer_public) != 2 * self._octets:
            raise _invalid(self._group, peer_public)
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._key.curve, b"\4" + peer_public)
            return Secret(self._key.exchange(ec.ECDH(), peer))
        except ValueError:
            raise _invalid(self._group, peer_public) from None


class ModpValue:
    """Group 14 (RFC 3526), for peers that can do no better.

    Python's `pow` takes a time that depends on the exponent, which is why this group is not
    offered unless configured; an exponent is used for one exchange only.
    """

    def __init__(self, exponent: int) -> None:
        self._exponent = exponent

    def public(self) -> bytes:
        return pow(2, self._exponent, _PRIME).to_bytes(_PRIME_OCTETS)

    def shared(self, peer_public: bytes) -> Secret:
        value = int.from_bytes(peer_public)
        if len(peer_public) != _PRIME_OCTETS or not 1 < value < _PRIME - 1:
            raise _invalid(Group.MODP_2048, peer_public)
        return Secret(pow(value, self._exponent, _PRIME).to_bytes(_PRIME_OCTETS))


def _invalid(group: Group, public: bytes) -> Refused:
    return Refused(
        NotifyType.INVALID_SYNTAX, f"the peer's public value of {len(public)} octets is none of {group}"
    )
