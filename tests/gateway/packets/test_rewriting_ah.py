"""AH covers the addresses (RFC 4302 section 3.3.3), which are the customer's own again at the receiver."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, IPSecIntegrityError, SecurityAssociation
from scapy.packet import Packet, Raw

from gateway.packets.rewriting import rewritten
from policies.addresses import Address

CUSTOMERS = {4: ("10.0.1.5", "10.0.1.6"), 6: ("fd00:1::5", "fd00:1::6")}
PROVIDERS = {4: ("198.51.100.130", "203.0.113.7"), 6: ("2001:db8:1::82", "2001:db8:2::7")}


@pytest.mark.parametrize(("version", "layer"), [(4, IP), (6, IPv6)])
def test_what_ah_protects_is_still_authentic_when_both_addresses_are_put_back(
    version: int, layer: type[Packet]
) -> None:
    def ends(of: dict[int, tuple[str, str]]) -> tuple[Address, Address]:
        source, destination = map(Address.parse, of[version])
        return source, destination

    source, destination = CUSTOMERS[version]
    security = SecurityAssociation(AH, spi=5, auth_algo="HMAC-SHA1-96", auth_key=bytes(range(20)))
    plain = layer(src=source, dst=destination) / TCP(sport=1111, dport=2222) / Raw(b"payload")
    sent = bytes(security.encrypt(plain))

    on_wire = rewritten(sent, *ends(PROVIDERS))
    received = layer(rewritten(on_wire, *ends(CUSTOMERS)))

    assert bytes(security.decrypt(received, verify=True)).endswith(b"payload")
    with pytest.raises(IPSecIntegrityError):
        security.decrypt(layer(on_wire), verify=True)
