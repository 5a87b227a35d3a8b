"""Scapy's own ESP opens what we seal, and we open what it seals."""

from __future__ import annotations

from typing import Any

import pytest

from policies.ipsec import Encryption, EspSuite, Integrity
from tests.tunnels.esp.pairs import (
    BACK,
    OUR_SPI,
    PEER_SPI,
    SUITES,
    back,
    child,
    joined,
    opened,
    packet,
    sealed,
)
from tunnels.effects import ChildSa, EspKeys, InstallChild
from tunnels.esp.associations import Associations

# Scapy's import warns of ciphers that cryptography will move.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

CRYPT = {Encryption.CHACHA20_POLY1305: "CHACHA20-POLY1305"}
AUTH = {
    None: None,
    Integrity.SHA2_256: "SHA2-256-128",
    Integrity.SHA2_384: "SHA2-384-192",
    Integrity.SHA2_512: "SHA2-512-256",
}
BEYOND_32_BITS = (3 << 32) + 5

every_suite = pytest.mark.parametrize("suite", SUITES, ids=str)
both_families = pytest.mark.parametrize("version", [4, 6])


def scapy_association(suite: EspSuite, spi: int, keys: EspKeys, high: int = 0, **more: Any) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.ipsec import ESP, SecurityAssociation

    name = CRYPT.get(suite.encryption) or ("AES-GCM" if suite.encryption.is_aead else "AES-CBC")
    return SecurityAssociation(
        ESP,
        spi=spi,
        crypt_algo=name,
        crypt_key=bytes(keys.encryption),
        auth_algo=AUTH[suite.integrity],
        auth_key=bytes(keys.integrity),
        tunnel_header=IP(src="192.0.2.1", dst="198.51.100.1"),
        esn_en=suite.extended_sequence_numbers,
        esn=high,
        **more,
    )


def ours(suite: EspSuite, version: int) -> ChildSa:
    import ipaddress

    from tests.tunnels.esp.pairs import selectors

    if version == 4:
        return child(suite)
    return child(
        suite, chosen=selectors(ipaddress.ip_network("fd00:1::/64"), ipaddress.ip_network("fd00:2::/64"))
    )


@every_suite
@both_families
def test_scapy_opens_what_we_seal(suite: EspSuite, version: int) -> None:
    from scapy.layers.inet import IP
    from scapy.layers.ipsec import ESP

    us, _ = joined(ours(suite, version))
    for size in range(60, 80):
        given = packet(size) if version == 4 else packet(size, source="fd00:1::5", destination="fd00:2::5")
        result = sealed(us, given).packet
        scapy = scapy_association(suite, PEER_SPI, child(suite).outbound)
        outer = IP(src="192.0.2.1", dst="198.51.100.1") / ESP(result)
        assert bytes(scapy.decrypt(IP(bytes(outer)))) == given[1]


@every_suite
@both_families
def test_we_open_what_scapy_seals(suite: EspSuite, version: int) -> None:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.ipsec import ESP

    us, _ = joined(ours(suite, version))
    scapy = scapy_association(suite, OUR_SPI, child(suite).inbound)
    for size in range(60, 80):
        given = back(size) if version == 4 else packet(size, source="fd00:2::5", destination="fd00:1::5")
        encrypted = scapy.encrypt((IP if version == 4 else IPv6)(given[1]))
        assert opened(us, bytes(encrypted[ESP]), came_by=BACK) == given[1]


@pytest.mark.parametrize("suite", [each for each in SUITES if each.extended_sequence_numbers], ids=str)
def test_both_agree_on_sequence_numbers_beyond_32_bits(suite: EspSuite) -> None:
    from scapy.layers.inet import IP
    from scapy.layers.ipsec import ESP

    us = Associations()
    us.install(InstallChild(child(suite, soft_packets=1 << 60), sending=True))
    association = us._inbound[OUR_SPI]
    association.sent_packets = BEYOND_32_BITS - 1
    association.window.accept(BEYOND_32_BITS - 1)

    result = sealed(us, packet()).packet
    high = BEYOND_32_BITS >> 32
    reader = scapy_association(suite, PEER_SPI, child(suite).outbound, high)
    outer = IP(src="192.0.2.1", dst="198.51.100.1") / ESP(result)
    assert bytes(reader.decrypt(IP(bytes(outer)))) == packet()[1]

    writer = scapy_association(suite, OUR_SPI, child(suite).inbound, high, seq_num=5)
    assert opened(us, bytes(writer.encrypt(IP(back()[1]))[ESP])) == back()[1]
    assert association.window.newest == BEYOND_32_BITS
