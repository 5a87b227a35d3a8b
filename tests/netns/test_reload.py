"""A reload by the command line that makes a running gateway one with sites."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import LabError
from tests.configurations import RED, edge_1, site

pytestmark = pytest.mark.netns

SEATTLE = site("seattle", peer="any")
SEATTLE_COMES = """\
+ tenant[red].site[seattle]: 172.16.0.0/16 at any, by edge-1
    it waits for its peer to dial
reloaded
"""


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    """A gateway that runs without a site, and a configuration that has one."""
    with Laboratory() as lab:
        edge = lab.namespace("edge-1")
        lab.link(lab.namespace("router"), "eth1", edge, "eth1")
        edge.ip("address add 192.0.2.254/24 dev eth1", "link set eth1 up")
        file, secret = lab.directory / "edge-1.toml", lab.directory / "seattle.psk"
        file.write_text(edge_1(state=lab.directory) + 'site_addresses = ["198.51.100.1"]\n' + RED)
        secret.write_text("shared by both")
        secret.chmod(0o600)
        lab.start("edge-1", edge, *command(lab, "run")).wait_for("ready")
        file.write_text(file.read_text() + SEATTLE)
        yield lab


def command(lab: Laboratory, name: str) -> tuple[str, ...]:
    return sys.executable, "-m", "gateway.cli", name, str(lab.directory / "edge-1.toml")


def ask(lab: Laboratory, name: str) -> str:
    return lab.namespaces["edge-1"].run(*command(lab, name)).stdout


def test_first_site_comes_by_a_reload_at_an_address_that_came_after_the_start(laboratory: Laboratory) -> None:
    with pytest.raises(LabError, match=r"gateway\.site_addresses"):
        ask(laboratory, "reload")

    laboratory.namespaces["edge-1"].ip("address add 198.51.100.1/24 dev eth1")

    assert ask(laboratory, "reload") == SEATTLE_COMES
    assert "red/seattle: DOWN" in ask(laboratory, "sites")


def test_reload_that_finds_a_port_taken_leaves_the_gateway_running(
    laboratory: Laboratory,
) -> None:
    edge = laboratory.namespaces["edge-1"]
    edge.ip("address add 198.51.100.1/24 dev eth1")

    def take_port() -> socket.socket:
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("198.51.100.1", 500))
        return other

    with edge.call(take_port), pytest.raises(LabError, match="another IKE daemon"):
        ask(laboratory, "reload")

    assert ask(laboratory, "sites") == "this appliance dials no sites\n"
    assert ask(laboratory, "reload") == SEATTLE_COMES
