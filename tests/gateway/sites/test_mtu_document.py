"""The MTUs in docs/sites.md are those of real tunnels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.ipsec import Encryption, EspSuite, Integrity
from tunnels.esp.transform import Overhead

DOCUMENT = (Path(__file__).parents[3] / "docs" / "sites.md").read_text()
SUITES = {
    "AES-GCM, ChaCha20-Poly1305": (
        EspSuite(Encryption.AES_256_GCM, None, True),
        EspSuite(Encryption.CHACHA20_POLY1305, None, False),
    ),
    "AES-CBC with SHA-256": (EspSuite(Encryption.AES_256_CBC, Integrity.SHA2_256, False),),
    "AES-CBC with SHA-384": (EspSuite(Encryption.AES_128_CBC, Integrity.SHA2_384, False),),
    "AES-CBC with SHA-512": (EspSuite(Encryption.AES_256_CBC, Integrity.SHA2_512, False),),
}
# The outer IP header, and UDP's: in the order of the table's columns.
OUTER = (20, 20 + 8, 40, 40 + 8)


@pytest.mark.parametrize("name", SUITES)
def test_the_document_gives_the_mtu_of_a_tunnel_over_1500_octets(name: str) -> None:
    (row,) = re.findall(rf"^\| {name} \| (.*) \|$", DOCUMENT, re.MULTILINE)

    for suite in SUITES[name]:
        mtus = [Overhead(suite).largest_within(1500 - outer) for outer in OUTER]
        assert [int(cell) for cell in row.split(" | ")] == mtus
