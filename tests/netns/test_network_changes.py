"""What an operator changes of the network while hosts follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.netns.moving import World, plan_with_third_host, world


def with_vsid(network: dict[str, Any], subnet: str, vsid: int) -> dict[str, Any]:
    """The same network, one subnet of Red's with another VSID."""
    for each in network["tenants"][0]["subnets"]:
        if each["name"] == subnet:
            each["vsid"] = vsid
    return network


def wait_until_registered(datacenter: World, name: str, vsid: int) -> None:
    address = datacenter.vm(name).address()

    def is_registered() -> bool:
        listed = datacenter.operator.ask("GET", f"/v1/records?vsid={vsid}")["records"]
        return any(record["ca"] == address for record in listed)

    datacenter.wait_until(is_registered, f"{name} is not registered in {vsid}")


def test_ports_of_a_subnet_that_gets_another_vsid_are_served_again(tmp_path: Path) -> None:
    with world(plan_with_third_host(), (), tmp_path / "lookup") as datacenter:
        network = datacenter.operator.ask("GET", "/v1/network")
        # Several times, since who is first to have an interface is left to chance.
        for vsid in (7001, 7002, 7003, 7004, 7005):
            datacenter.operator.ask("PUT", "/v1/network", with_vsid(network, "web", vsid))
            for name in ("red-web1", "red-web2", "observer-web"):
                wait_until_registered(datacenter, name, vsid)
        assert all(process.returncode is None for process in datacenter.processes.values())
        assert datacenter.reaches("observer-web", "red-web1")
        assert datacenter.reaches("observer-db", "red-web2")
