from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.lab import nodes
from gateway.lab.demo import demo_plan, knows
from gateway.lab.topology import Plan, Site, standard_plan
from policies.config import load, parse
from policies.model import Appliance, Engine

REFERENCE = Path(__file__).parents[3] / "appliance.toml"


def configured(plan: Plan, name: str) -> Appliance:
    (node,) = (node for node in plan.nodes if node.name == name)
    return parse(nodes.configuration(plan, node, state=Path("/var/lib/isthmus"), knows=knows))


@pytest.mark.parametrize("underlay", [(4,), (6,), (4, 6)])
def test_every_planned_node_has_a_sound_configuration(underlay: tuple[int, ...]) -> None:
    plan = standard_plan(tenants=("a", "b", "c"), vms_per_subnet=5, underlay=underlay)
    for node in plan.nodes:
        appliance = parse(nodes.configuration(plan, node, state=Path("/var/lib/isthmus")))
        assert appliance.gateway == (node.name == "edge-1")
        assert (appliance.host is not None) == (node.name != "edge-1")


def test_demo_has_the_network_of_the_reference_configuration() -> None:
    reference, demo = load(REFERENCE), configured(demo_plan(), "edge-1")

    assert demo.network.hosts[0].provider_addresses[0] == reference.network.hosts[0].provider_addresses[0]
    assert [host.name for host in demo.network.hosts] == [host.name for host in reference.network.hosts]
    assert demo.underlay is not None
    assert reference.underlay is not None
    assert demo.underlay.provider_addresses == reference.underlay.provider_addresses
    assert [(tenant.name, tenant.gateways, tenant.subnets) for tenant in demo.network.tenants] == [
        (tenant.name, tenant.gateways, tenant.subnets) for tenant in reference.network.tenants
    ]


def test_hosts_of_the_demo_lack_the_records_that_send_traffic_through_the_gateway() -> None:
    plan = demo_plan()
    web = {subnet.vsid for subnet in plan.subnets if subnet.name == "web"}

    for name in ("hv1", "hv2"):
        tenants = configured(plan, name).network.tenants
        assert {record.vsid for tenant in tenants for record in tenant.records} == web
    gateway = configured(plan, "edge-1").network.tenants
    assert sum(len(tenant.records) for tenant in gateway) == 2 * len(plan.vms)


def test_planned_site_is_configured_with_all_its_keys(tmp_path: Path) -> None:
    site = Site(
        tenant="red",
        name="seattle",
        prefixes=("172.16.0.0/16",),
        peer="198.18.1.2",
        ike={"local_id": "edge-1.example", "remote_id": "seattle.example", "psk_file": "/seattle.psk"},
        others={"start": "trap", "lifetimes": {"child": "3 s"}, "force_udp": True},
    )
    plan = msgspec.structs.replace(standard_plan(), sites=(site,))
    red, blue = configured(plan, "hv1").network.tenants

    assert not blue.sites
    (configured_site,) = red.sites
    assert str(configured_site.peer) == "198.18.1.2"
    assert (configured_site.start, configured_site.lifetimes.child_seconds) == ("trap", 3)
    assert configured_site.force_udp
    assert configured_site.ike.remote_id == "seattle.example"


def test_engine_of_a_plan_is_its_gateways() -> None:
    plan = standard_plan(engine="xdp")

    assert configured(plan, "edge-1").engine is Engine.XDP
    assert configured(plan, "hv1").engine is Engine.PYTHON
