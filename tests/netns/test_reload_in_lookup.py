"""A trial reload of the node that serves the lookup service: hosts follow it there and back again."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from gateway.lab import nodes
from tests.netns.moving import SERVER, World, plan_with_third_host, world
from tests.netns.pings import Pings

pytestmark = pytest.mark.netns


def tenants(datacenter: World) -> dict[str, list[str]]:
    """The store's tenants, and their subnets."""
    network = datacenter.operator.ask("GET", "/v1/network")
    return {each["name"]: sorted(net["name"] for net in each["subnets"]) for each in network["tenants"]}


def test_trial_that_takes_a_subnet_away_gives_it_back_and_leaves_what_others_have_changed(
    tmp_path: Path,
) -> None:
    with world(plan_with_third_host(), (), tmp_path / "lookup") as datacenter:
        lab, file = datacenter.lab, datacenter.file(SERVER)
        isthmus = (sys.executable, "-m", "gateway.cli")
        assert datacenter.reaches("red-db1", "red-db2")
        less = msgspec.structs.replace(
            lab.plan,
            subnets=tuple(net for net in lab.plan.subnets if net.name != "db"),
            vms=tuple(vm for vm in lab.plan.vms if vm.subnet != "db"),
        )
        edge = next(node for node in less.gateways if node.name == SERVER)
        state = lab.directory / SERVER
        file.write_text(nodes.configuration(less, edge, state=state, lookup=datacenter.lookup))
        pings = Pings(lab, lab.vm("red-web1"), datacenter.vm("red-web2").address())

        differs = lab.node(SERVER).run(*isthmus, "diff", str(file)).stdout
        reload = lab.node(SERVER).run(*isthmus, "reload", str(file), "--confirm", "6").stdout
        assert tenants(datacenter) == {"red": ["web"]}
        assert not datacenter.reaches("red-db1", "red-db2")
        network = datacenter.operator.ask("GET", "/v1/network")
        network["tenants"].append({"name": "others", "gateways": [SERVER], "subnets": []})
        datacenter.operator.ask("PUT", "/v1/network", network)

        datacenter.wait_until(lambda: "db" in tenants(datacenter)["red"], "not rolled back", 20)
        took = datacenter.wait_until_reached("red-db1", "red-db2", 10)
        sent, lost = pings.end()

        assert "- tenant[red].subnet[db]: VSID 5002" in differs
        assert "rolls back in 6 s" in reload
        assert tenants(datacenter) == {"others": [], "red": ["db", "web"]}
        assert lost == 0
        assert datacenter.processes[SERVER].returncode is None
        figures = f"{lost} of {sent} pings lost in web, db reached {took:.1f} s later"
        sys.stdout.write(f"\nrolled back in the store: {figures}\n")
