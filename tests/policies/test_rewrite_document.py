"""The files in docs/rewrite.md can be copied as they are."""

from __future__ import annotations

import re
from pathlib import Path

from policies.config import parse
from policies.model import Translation

TEXT = (Path(__file__).parents[2] / "docs" / "rewrite.md").read_text()
FILES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


def test_each_file_is_sound_and_they_belong_together() -> None:
    edge, *hosts = map(parse, FILES)

    ways = {subnet.name: subnet.translation for tenant in edge.network.tenants for subnet in tenant.subnets}
    assert ways == {"web": Translation.REWRITE, "db": Translation.ENCAP}
    assert edge.pools
    assert {host.name for host in hosts} == {host.name for host in edge.network.hosts if host.pools}
    for host in hosts:
        assert host.host is not None
        assert {port.subnet for port in host.host.ports} <= ways.keys()
