"""docs/isthmus.nft: no word from the kernel about NVGRE while nothing takes it.

sender eth1 ---- eth1 edge-1
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.lab.laboratory import Laboratory

pytestmark = pytest.mark.netns

RULES = Path(__file__).parents[2] / "docs" / "isthmus.nft"
NVGRE = b"\x20\x00\x65\x58" + bytes(60)
PROTOCOL_UNREACHABLE, UNRECOGNISED_NEXT_HEADER = b"\x03\x02", b"\x04\x01"


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        sender, edge = lab.namespace("sender"), lab.namespace("edge-1")
        lab.link(sender, "eth1", edge, "eth1")
        sender.ip("address add 192.0.2.11/24 dev eth1", "address add 2001:db8::11/64 dev eth1 nodad")
        edge.ip("address add 192.0.2.254/24 dev eth1", "address add 2001:db8::254/64 dev eth1 nodad")
        lab.wait_until_ready([sender, edge])
        yield lab


def complaints(lab: Laboratory, version: int) -> list[bytes]:
    """Send NVGRE to edge-1, then something that is surely answered; return the ICMP errors before that."""
    ours, theirs = ("192.0.2.11", "192.0.2.254") if version == 4 else ("2001:db8::11", "2001:db8::254")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    offset = 20 if version == 4 else 0
    error = PROTOCOL_UNREACHABLE if version == 4 else UNRECOGNISED_NEXT_HEADER
    reply_type = 0 if version == 4 else 129

    def exchange() -> list[bytes]:
        with (
            socket.socket(family, socket.SOCK_RAW, protocol) as icmp,
            socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_GRE) as gre,
        ):
            icmp.settimeout(5)
            gre.bind((ours, 0))
            heard: list[bytes] = []
            gre.sendto(NVGRE, (theirs, 0))
            # The checksum of ICMPv6 is the kernel's to fill in; that of ICMP is 0xF7FF here.
            request = bytes((8, 0, 0xF7, 0xFF)) if version == 4 else bytes((128, 0, 0, 0))
            icmp.sendto(request + bytes(4), (theirs, 0))
            while True:
                message = icmp.recv(2048)[offset:]
                if message[0] == reply_type:
                    return heard
                if message[:2] == error:
                    heard.append(message)

    result: list[bytes] = lab.namespaces["sender"].call(exchange)
    return result


@pytest.mark.parametrize("version", [4, 6])
def test_kernel_is_silent_about_nvgre_behind_the_packaged_rules(
    laboratory: Laboratory, require_tools: Callable[..., None], version: int
) -> None:
    require_tools("nft")
    assert len(complaints(laboratory, version)) == 1  # without the rules it complains

    edge = laboratory.namespaces["edge-1"]
    edge.run("nft", "-f", str(RULES))

    assert complaints(laboratory, version) == []
    # It was the rules that kept it silent, and not the kernel's own limit on such errors.
    assert "counter packets 1 " in edge.run("nft", "list", "ruleset").stdout
