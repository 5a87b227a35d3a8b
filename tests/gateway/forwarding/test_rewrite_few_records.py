"""A host that keeps few records, and asks for those that its rewritten VMs need."""

from __future__ import annotations

import pytest

from gateway.forwarding.directory import Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.happenings import Happening, Wanted
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer
from gateway.host.uses import WatchedDirectory
from policies.addresses import CustomerAddress
from tests import networks as n
from tests.rewriting import Vm, World

WEB5: Vm = ("red", "web", 5)


@pytest.mark.parametrize("version", [4, 6])
def test_host_that_keeps_few_records_asks_for_a_neighbour_of_a_rewritten_vm(version: int) -> None:
    world = World([WEB5])
    mine = [each for each in world.records.values() if each.host == "hv1"]
    host = Forwarder(world.nodes["hv1"].node, world.nodes["hv1"].tables, WatchedDirectory(mine))
    heard: list[Happening] = []
    host.happenings.on_happening = heard.append
    target = n.ca("web", 6, version)
    question = (n.arp_request if version == 4 else n.solicitation)("red", ("web", 5), target)

    n.dropped(n.send(host, WEB5, question), DropReason.NO_RECORD)
    assert heard == [Wanted(n.port(*WEB5)[0], CustomerAddress.parse(target))]

    host.apply([Put(world.record(("red", "web", 6), version))], 0.1)
    assert isinstance(n.send(host, WEB5, question), Answer)
