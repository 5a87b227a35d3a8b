"""One program with its tables, in ordinary memory."""

from __future__ import annotations

import errno

import pytest

from gateway.fastpath import kernel
from gateway.fastpath.instance import Instance
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.sizes import Sizes
from tests.gateway.fastpath.ordinary import Loader, OrdinaryMap

SIZES = Sizes(
    ipv4_records=64,
    ipv4_blocks=4,
    ipv6_records=64,
    subnets=32,
    tenants=16,
    peers=64,
    rules=64,
    routes=128,
)


def test_program_whose_tables_cannot_be_reached_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: OrdinaryMap) -> memoryview:
        raise BpfRefused(errno.ENOMEM, "mapping a map's memory")

    loader = Loader()
    monkeypatch.setattr(kernel, "load", loader)
    monkeypatch.setattr(OrdinaryMap, "memory", refuse)

    with pytest.raises(BpfRefused):
        Instance.load(SIZES, 1)
    assert not loader.made[-1].is_open
