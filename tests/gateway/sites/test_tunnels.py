"""The sites at work, as far as that needs neither a network nor privileges."""

from __future__ import annotations

import socket

import pytest
import trio

from gateway.sites.tunnels import SiteTunnels
from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError
from tests import networks as n
from tunnels.esp.service import TunnelSockets

LOOPBACK = ProviderAddress.parse("127.0.0.1")


def test_port_that_another_daemon_has_is_the_operators_mistake_and_ends_nothing_else() -> None:
    tunnels = SiteTunnels(n.gateway())

    async def start_in_vain() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((str(LOOPBACK), 0))
            tunnels.sockets = TunnelSockets(ike_port=other.getsockname()[1])
            async with trio.open_nursery() as traffic:
                with pytest.raises(ConfigurationError, match="another IKE daemon"):
                    await tunnels.start(traffic, {LOOPBACK: 1500}, lambda verdict: None)
                return not traffic.cancel_scope.cancel_called

    assert trio.run(start_in_vain)
    assert not tunnels.is_serving
