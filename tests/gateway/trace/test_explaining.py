"""What `isthmus trace` says, and that it says what the pipeline does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from gateway.forwarding.directory import configured_directory
from gateway.trace.explaining import Explanation, explain
from gateway.trace.packets import Question, packet
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.config import load, parse
from policies.errors import ConfigurationError
from policies.model import Appliance
from tests.configurations import host_port, provider_gateway, site, table

ROOT = Path(__file__).parents[3]
EDGE = load(ROOT / "appliance.toml")

HOST = re.sub(
    r"(?s)\[underlay\].*?(?=\[\[provider_host\]\])",
    table("[underlay]", provider_addresses=["198.51.100.11"])
    + table("[host]", name="hv1")
    + host_port()
    + provider_gateway("edge-1", "192.0.2.254"),
    (ROOT / "appliance.toml").read_text().replace('name = "edge-1"', 'name = "hv1"', 1),
)


def ask(source: str, destination: str, at: Appliance = EDGE, **words: Any) -> Explanation:
    words.setdefault("tenant", "red")
    question = Question(
        source=CustomerAddress.parse(source), destination=CustomerAddress.parse(destination), **words
    )
    return explain(at, configured_directory(at), question)


def names(explanation: Explanation) -> list[str]:
    return [step.name for step in explanation.steps]


def test_packet_that_goes_on_is_forwarded_with_its_way() -> None:
    explanation = ask("10.0.1.5", "10.0.2.5", protocol="tcp", destination_port=5432)

    assert explanation.outcome == "forwarded"
    assert names(explanation) == ["virtual subnet", "source", "access", "route", "record", "hop limit"]
    assert "from 192.0.2.254 to 203.0.113.12 in NVGRE, VSID 5002 (db)" in explanation.verdict


def test_rule_that_decided_is_named() -> None:
    explanation = ask("10.0.1.5", "10.0.2.5", protocol="tcp", destination_port=22)

    assert explanation.verdict == "dropped: access-denied"
    assert explanation.steps[-1].name == "access"


def test_reply_is_allowed_by_the_rule_of_what_it_replies_to() -> None:
    explanation = ask(
        "10.0.2.5", "10.0.1.5", protocol="tcp", source_port=5432, destination_port=49152, established=True
    )

    assert explanation.outcome == "forwarded"
    assert any(step.detail.startswith("as a reply: rule ") for step in explanation.steps)


def test_ping_of_the_gateway_is_answered() -> None:
    assert ask("10.0.1.5", "10.0.1.1").outcome == "answered"


def test_stranger_is_refused_as_spoofed() -> None:
    explanation = ask("10.0.1.5", "10.0.2.5", via=ProviderAddress.parse("192.0.2.66"))

    assert explanation.verdict == "dropped: spoofed-source"


def test_packet_that_is_too_big_is_told_of() -> None:
    explanation = ask("10.0.1.5", "10.0.2.5", protocol="udp", destination_port=5432, size=1500, tenant="blue")

    assert explanation.verdict == "dropped: too-big; its sender is told by ICMP"


def test_equal_fragments_are_counted_and_not_listed() -> None:
    way = "from 192.0.2.254 to 203.0.113.12 in NVGRE, VSID 6002 (db)"

    explanation = ask("10.0.1.5", "10.0.2.5", protocol="udp", size=65_535, dont_fragment=False, tenant="blue")

    assert explanation.verdict == (
        f"forwarded {way}, 1474 octets behind the outer IP header, 45 times;"
        f" {way}, 1117 octets behind the outer IP header"
    )


def test_tenants_with_the_same_addresses_are_told_apart() -> None:
    blue = ask("10.0.1.5", "10.0.2.5", tenant="blue")

    assert "VSID 6002 (db)" in blue.verdict


def test_host_sees_what_its_vm_sends_at_the_port() -> None:
    explanation = ask("10.0.1.5", "10.0.2.5", parse(HOST), protocol="tcp", destination_port=5432)

    assert explanation.steps[0].name == "port"
    assert "from 198.51.100.11 to 203.0.113.12" in explanation.verdict


def test_host_sees_what_another_has_routed_in_the_destinations_subnet() -> None:
    host = parse(HOST)

    explanation = ask(
        "10.0.2.5",
        "10.0.1.5",
        host,
        protocol="tcp",
        source_port=5432,
        destination_port=49152,
        established=True,
    )

    assert explanation.verdict == "forwarded to the port of 02:00:00:00:01:05 in web here"


@pytest.mark.parametrize("destination", ["10.0.1.255", "255.255.255.255", "224.0.0.251"])
def test_packet_for_everybody_is_sent_to_a_groups_mac(destination: str) -> None:
    assert ask("10.0.1.5", destination, tenant="blue").verdict == "dropped: group-not-allowed"


def test_broadcast_address_of_another_subnet_is_routed() -> None:
    assert ask("10.0.1.5", "10.0.2.255", tenant="blue").verdict.startswith("dropped: no-record")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        pytest.param({"tenant": "green"}, "tenant: name one of blue, red, or a VSID", id="tenant"),
        pytest.param({"tenant": None, "vsid": Vsid(7777)}, "vsid: no tenant has VSID 7777", id="VSID"),
        pytest.param({"tenant": "blue", "vsid": Vsid(5001)}, "vsid: VSID 5001 is none of blue's", id="both"),
        pytest.param({"protocol": "ospf"}, "protocol: 'ospf' is none of tcp, udp, icmp", id="protocol"),
        pytest.param({"size": 20}, "size: this icmp packet has at least 28 octets", id="size"),
    ],
)
def test_question_that_does_not_fit_is_refused(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        ask("10.0.1.5", "10.0.2.5", **words)


def test_families_do_not_mix() -> None:
    with pytest.raises(ConfigurationError, match="is not of the same family"):
        ask("10.0.1.5", "fd00:2::5")


def test_sender_without_a_record_has_to_be_placed() -> None:
    with pytest.raises(ConfigurationError, match="say with --via which provider address sends it"):
        ask("10.0.1.77", "10.0.2.5")

    placed = ask("10.0.1.77", "10.0.2.5", tenant="blue", via=ProviderAddress.parse("198.51.100.11"))
    assert placed.outcome == "forwarded"


SITES = site("seattle", mtu=1380) + site("oslo", "172.17.0.0/16", "203.0.113.8")
WITH_SITES = parse((ROOT / "appliance.toml").read_text() + SITES)


def test_packet_for_a_site_is_shown_on_its_way_into_the_tunnel() -> None:
    explanation = ask("10.0.1.5", "172.16.0.5", at=WITH_SITES, tenant="blue", size=1380)

    assert explanation.outcome == "forwarded"
    assert "route" in names(explanation)
    assert "into the tunnel to seattle, 1380 octets" in explanation.verdict
    assert any("up to 1380 octets" in step.detail for step in explanation.steps if step.name == "site")
    assert ask("10.0.1.5", "172.16.0.5", at=WITH_SITES, tenant="blue", size=1381).outcome == "dropped"


def test_packet_of_a_host_at_a_site_comes_through_its_tunnel() -> None:
    explanation = ask("172.16.0.5", "10.0.1.5", at=WITH_SITES, tenant="blue")

    assert explanation.outcome == "forwarded"
    assert names(explanation)[:2] == ["site", "source"]
    assert "in NVGRE" in explanation.verdict


def test_packet_from_another_site_than_its_source_is_at_is_refused() -> None:
    explanation = ask("172.16.0.5", "10.0.1.5", at=WITH_SITES, tenant="blue", site="oslo")

    assert "selector-mismatch" in explanation.verdict


def test_site_that_there_is_none_of_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="those are: oslo, seattle"):
        ask("172.16.0.5", "10.0.1.5", at=WITH_SITES, tenant="blue", site="rome")


def test_node_that_forwards_nothing_says_so() -> None:
    lookup_node = parse('[appliance]\nname = "lookup-1"\n[lookup]\n')
    with pytest.raises(ConfigurationError) as caught:
        ask("10.0.1.5", "10.0.2.5", at=lookup_node)
    assert "neither [gateway] nor [host]" in str(caught.value.problems[0])


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
@pytest.mark.parametrize("version", [4, 6])
def test_packet_that_is_asked_about_is_what_scapy_would_make(protocol: str, version: int) -> None:
    ends = ("10.0.1.5", "10.0.2.5") if version == 4 else ("fd00:1::5", "fd00:2::5")
    source, destination = map(CustomerAddress.parse, ends)
    octets = packet(Question(source, destination, protocol=protocol, destination_port=53, size=97))

    dissected = (IP if version == 4 else IPv6)(octets)
    for layer in (dissected, dissected.payload):
        for field in ("chksum", "cksum", "len", "plen"):
            if field in layer.fields:
                layer.delfieldval(field)

    assert len(octets) == 97
    assert bytes(dissected) == octets
