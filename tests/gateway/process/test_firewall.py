from __future__ import annotations

from gateway.process.firewall import removal, rules
from policies.config import parse

NODE = """
[appliance]
name = "node"
"""
UNDERLAY = """
[underlay]
provider_addresses = ["192.0.2.254", "2001:db8::254"]
"""


def test_nvgre_is_that_of_provider_addresses_and_ike_and_esp_those_of_site_addresses() -> None:
    lines = rules(parse(NODE + UNDERLAY + '[gateway]\nsite_addresses = ["198.51.100.1"]\n')).splitlines()
    gre = [line for line in lines if line.endswith(" 47 counter drop")]
    assert [line.split()[3] for line in gre] == ["192.0.2.254", "2001:db8::254"]
    others = [line for line in lines if "saddr" in line and line not in gre]
    assert {line.split()[3] for line in others} == {"198.51.100.1"}
    assert len(others) == 2


def test_host_has_rules_for_nvgre_alone() -> None:
    host = '[[provider_host]]\nname = "hv1"\nprovider_addresses = ["192.0.2.254", "2001:db8::254"]\n'
    text = rules(parse(NODE + UNDERLAY + '[host]\nname = "hv1"\n' + host))
    assert "47 counter drop" in text
    assert "50 counter drop" not in text
    assert "4500" not in text


def test_lookup_node_alone_needs_no_rules_and_has_old_ones_taken_away() -> None:
    assert rules(parse(NODE + '[lookup]\nlisten = "127.0.0.1:7637"\n')) == removal()
