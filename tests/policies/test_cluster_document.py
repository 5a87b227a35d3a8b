"""The files in docs/cluster.md can be copied as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.config import parse
from policies.tables import Tables

TEXT = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
FILES = dict(re.findall(r"```toml\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


def test_the_document_shows_each_kind_of_file() -> None:
    assert set(FILES) == {"lookup-1.toml", "network.toml", "edge-1.toml", "hv1.toml"}


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_sound(name: str) -> None:
    parse(FILES[name])


def test_only_the_networks_file_has_the_network_and_it_compiles() -> None:
    networks = {name: parse(text).network for name, text in FILES.items()}

    assert {name for name, network in networks.items() if network.tenants or network.hosts} == {
        "network.toml"
    }
    assert len(Tables.compile(networks["network.toml"]).subnets) == 3


def test_nodes_ask_all_lookup_nodes_and_show_a_certificate_that_these_know() -> None:
    lookup = parse(FILES["lookup-1.toml"]).lookup
    assert lookup is not None
    subjects = {credential.subject for credential in lookup.credentials}
    for name in ("edge-1.toml", "hv1.toml"):
        appliance = parse(FILES[name])
        assert appliance.lookup_access is not None
        assert len(appliance.lookup_access.nodes) == 3
        assert appliance.name in subjects
