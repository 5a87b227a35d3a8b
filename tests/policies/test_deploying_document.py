"""The files in docs/deploying.md can be copied as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.config import parse

TEXT = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
FILES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
REST = '[appliance]\nname = "hv2"\n[underlay]\nprovider_addresses = ["203.0.113.12"]\n'


@pytest.mark.parametrize("number", range(3))
def test_each_file_is_sound(number: int) -> None:
    text = FILES[number]

    parse(text if "[appliance]" in text else REST + text)


def test_a_gateway_a_host_and_an_open_vswitch_host_are_shown() -> None:
    assert len(FILES) == 3
    assert 'driver = "openvswitch"' in FILES[2]
