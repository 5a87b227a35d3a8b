"""`isthmus firewall`: no word from the kernel about NVGRE, ESP and IKE while nothing takes them.

sender eth1 ---- eth1 edge-1
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from gateway.lab.laboratory import Laboratory
from gateway.process import firewall
from policies.config import parse
from policies.errors import ConfigurationError

pytestmark = pytest.mark.netns

EDGE = """
[appliance]
name = "edge-1"
[underlay]
provider_addresses = ["192.0.2.254", "2001:db8::254"]
[gateway]
"""
NVGRE = b"\x20\x00\x65\x58" + bytes(60)
ESP = b"\x12\x34\x56\x78" + bytes(60)
# By IP version: protocol unreachable or unrecognised next header, and port unreachable.
NO_PROTOCOL = {4: b"\x03\x02", 6: b"\x04\x01"}
NO_PORT = {4: b"\x03\x03", 6: b"\x01\x04"}
SENT = {
    "nvgre": (socket.SOCK_RAW, socket.IPPROTO_GRE, 0, NVGRE, NO_PROTOCOL),
    "esp": (socket.SOCK_RAW, socket.IPPROTO_ESP, 0, ESP, NO_PROTOCOL),
    "ike": (socket.SOCK_DGRAM, 0, 500, bytes(28), NO_PORT),
    "esp in udp": (socket.SOCK_DGRAM, 0, 4500, ESP, NO_PORT),
}


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        sender, edge = lab.namespace("sender"), lab.namespace("edge-1")
        lab.link(sender, "eth1", edge, "eth1")
        sender.ip("address add 192.0.2.11/24 dev eth1", "address add 2001:db8::11/64 dev eth1 nodad")
        edge.ip("address add 192.0.2.254/24 dev eth1", "address add 2001:db8::254/64 dev eth1 nodad")
        lab.wait_until_ready([sender, edge])
        yield lab


def complaints(lab: Laboratory, version: int, what: str) -> list[bytes]:
    """Send something to edge-1, then what is surely answered; return the ICMP errors before that answer."""
    ours, theirs = ("192.0.2.11", "192.0.2.254") if version == 4 else ("2001:db8::11", "2001:db8::254")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    offset = 20 if version == 4 else 0
    reply_type = 0 if version == 4 else 129
    kind, carried_by, port, octets, errors = SENT[what]

    def exchange() -> list[bytes]:
        with (
            socket.socket(family, socket.SOCK_RAW, protocol) as icmp,
            socket.socket(family, kind, carried_by) as sender,
        ):
            icmp.settimeout(5)
            sender.bind((ours, 0))
            heard: list[bytes] = []
            sender.sendto(octets, (theirs, port))
            # The checksum of ICMPv6 is the kernel's to fill in; that of ICMP is 0xF7FF here.
            request = bytes((8, 0, 0xF7, 0xFF)) if version == 4 else bytes((128, 0, 0, 0))
            icmp.sendto(request + bytes(4), (theirs, 0))
            while True:
                message = icmp.recv(2048)[offset:]
                if message[0] == reply_type:
                    return heard
                if message[:2] == errors[version]:
                    heard.append(message)

    result: list[bytes] = lab.namespaces["sender"].call(exchange)
    return result


@pytest.mark.parametrize("what", SENT)
@pytest.mark.parametrize("version", [4, 6])
def test_kernel_is_silent_behind_the_rules_and_speaks_without_them(
    laboratory: Laboratory, require_tools: Callable[..., None], version: int, what: str
) -> None:
    require_tools("nft")
    edge = laboratory.namespaces["edge-1"]
    assert len(complaints(laboratory, version, what)) == 1  # without the rules it complains

    edge.call(lambda: firewall.carry_out(firewall.rules(parse(EDGE))))

    assert complaints(laboratory, version, what) == []
    # It was the rules that kept it silent, and not the kernel's own limit on such errors.
    assert "counter packets 1 " in edge.run("nft", "list", "ruleset").stdout

    edge.call(lambda: firewall.carry_out(firewall.removal()))
    assert edge.run("nft", "list", "ruleset").stdout == ""


def test_rules_are_replaced_and_removed_again_and_again_and_others_are_left_alone(
    laboratory: Laboratory, require_tools: Callable[..., None]
) -> None:
    require_tools("nft")
    edge = laboratory.namespaces["edge-1"]
    edge.run("nft", "add", "table", "inet", "others")

    def twice(script: str) -> str:
        edge.call(lambda: firewall.carry_out(script))
        edge.call(lambda: firewall.carry_out(script))
        return edge.run("nft", "list", "ruleset").stdout

    installed = twice(firewall.rules(parse(EDGE)))
    assert installed.count("@th,136,8 0x2f") == 1
    assert "198.51.100.1" not in installed
    moved = EDGE + 'site_addresses = ["198.51.100.1"]\n'
    assert twice(firewall.rules(parse(moved))).count("198.51.100.1") == 2
    assert twice(firewall.removal()) == "table inet others {\n}\n"


def test_what_nft_does_not_do_is_said(laboratory: Laboratory, require_tools: Callable[..., None]) -> None:
    require_tools("nft")
    edge = laboratory.namespaces["edge-1"]
    with pytest.raises(ConfigurationError, match="nft: "):
        edge.call(lambda: firewall.carry_out("table inet isthmus { nonsense }"))
