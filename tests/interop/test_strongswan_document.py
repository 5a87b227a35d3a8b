"""The configuration for strongSwan in docs/sites.md, word for word but for the secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.lab import echo
from gateway.lab.strongswan import StrongSwan
from gateway.lab.topology import Site
from tests.interop.strongswan import EDGE_ID, SECRET, SERVER, VM, World, lost

pytestmark = [pytest.mark.netns, pytest.mark.interop]

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sites.md").read_text()


class AsDocumented(StrongSwan):
    """A strongSwan whose swanctl.conf is the document's."""

    def _write_connections(self) -> None:
        (shown,) = re.findall(r"^```\n(connections \{.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE)
        path = self._folder / "swanctl.conf"
        path.touch(mode=0o600)
        path.write_text(shown.replace("the content of seattle.psk", SECRET))


def test_what_the_document_shows_brings_a_modern_site_up_and_carries_packets(world: World) -> None:
    place = world.add_premises("seattle")
    swan = AsDocumented(world, "seattle-swan", place.device)
    swan.start()
    site = Site(
        tenant="red",
        name="seattle",
        prefixes=("172.16.0.0/16",),
        peer=place.public,
        ike={"local_id": EDGE_ID, "remote_id": "seattle.example", "psk_file": "seattle.psk"},
    )

    up = world.start_gateway(site).wait_until_up("seattle")

    assert up.ike_suite == "aes256gcm16-prfsha384-ecp384"
    # The device says that it is up before its own kernel has the routes.
    assert world.vm("red-web1").call(echo.reachable_soon, SERVER, 10.0)
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert lost(world.server("seattle"), VM) == 0
