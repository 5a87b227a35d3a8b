from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gateway.lab.strongswan import COMMANDS
from tests.interop.strongswan import World


@pytest.fixture
def world(require_tools: Callable[..., None], require_tun: None) -> Iterator[World]:
    """A datacenter and enterprises with strongSwan, where the machine has all that any test of it needs."""
    require_tools(*COMMANDS, "iperf3", "nft", "ping")
    with World() as world:
        yield world
