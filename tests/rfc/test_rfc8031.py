"""RFC 8031, Curve25519 as group 31: its example (appendix A)."""

from __future__ import annotations

from policies.ipsec import Group
from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.ike import transforms
from tunnels.ike.keys import KeyPair


class Given(SeededEntropy):
    """Draws these octets."""

    def __init__(self, drawn: str) -> None:
        super().__init__(0)
        self._drawn = bytes.fromhex(drawn)

    def octets(self, count: int) -> bytes:
        assert count == len(self._drawn)
        return self._drawn


def test_appendix_a_example() -> None:
    ours = KeyPair.generate(
        Group.X25519, Given("751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94")
    )
    theirs = KeyPair.generate(
        Group.X25519, Given("0a54645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05688")
    )

    assert ours.public.hex() == "48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766"
    assert theirs.public.hex() == "0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25"
    shared = "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950"
    assert ours.shared(theirs.public).hex() == theirs.shared(ours.public).hex() == shared


def test_section_3_1_public_value_is_32_octets_of_group_31() -> None:
    assert transforms.group_number(Group.X25519) == 31
    assert len(KeyPair.generate(Group.X25519, SeededEntropy(1)).public) == 32
