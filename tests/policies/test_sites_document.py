"""docs/sites.md shows what is true: sites that load, and words that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.config import parse
from policies.config.proposals import esp_proposal, ike_proposal
from policies.ipsec import Encryption, Group, Integrity, Prf
from tests.configurations import DB, RED, edge_1, site

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "sites.md").read_text()
EXAMPLES = re.findall(r"^ *```toml\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE)

HEAD = edge_1() + RED + DB
SEATTLE = site("seattle")


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_a_site_is_sound(example: str) -> None:
    text = HEAD
    if not example.lstrip().startswith("[[tenant.site]]"):
        text += SEATTLE.partition("ike =")[0] if "local_id" in example else SEATTLE
    (tenant,) = parse(text + example).network.tenants
    assert [site.name for site in tenant.sites] == ["seattle"]


def test_there_is_an_example_for_every_device() -> None:
    for device in ("strongSwan", "Cisco IOS-XE", "Juniper SRX", "FortiGate", "Windows RRAS"):
        section = DOCUMENT.partition(f"\n## {device}\n")[2].partition("\n## ")[0]
        assert "```" in section, device
        assert section.lstrip().startswith("Tested" if device == "strongSwan" else "Untested"), device
    assert sum("selectors" in example for example in EXAMPLES) == 4


def test_every_algorithm_is_in_the_document() -> None:
    words = [str(member) for kind in (Encryption, Integrity, Prf, Group) for member in kind]
    assert not [word for word in words if f"`{word}`" not in DOCUMENT]


def test_what_strongswan_is_told_to_propose_is_among_what_we_read() -> None:
    (ike,) = re.findall(r"^ +proposals = (.*)$", DOCUMENT, re.MULTILINE)
    (esp,) = re.findall(r"^ +esp_proposals = (.*)$", DOCUMENT, re.MULTILINE)

    assert str(ike_proposal(ike)) == ike
    assert str(esp_proposal(esp)).startswith(esp)
