"""Isthmus itself in a planned datacenter: each node's appliance.toml, and its process."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, Node, Plan, Site, Vm

# By default every node has a record of every VM.
Knows = Callable[[Node, Vm], bool]


def everything(_node: Node, _vm: Vm) -> bool:
    """Every node knows every VM."""
    return True


def configuration(plan: Plan, node: Node, *, state: Path, knows: Knows = everything) -> str:
    """Write a node's appliance.toml. It has static records of the VMs that it `knows`.

    Whatever it knows, a host has its own VMs' ports.
    """
    lines = [
        *_table("[appliance]", name=node.name, state=str(state), engine="python"),
        *_table("[underlay]", provider_addresses=node.provider_addresses),
    ]
    if node in plan.gateways:
        lines += _table("[gateway]")
    if node in plan.hosts:
        lines += _table("[host]", name=node.name)
        for vm in plan.vms_on(node.name):
            lines += _table(
                "[[host.port]]",
                interface=vm.port,
                tenant=vm.tenant,
                subnet=vm.subnet,
                mac=vm.mac,
                addresses=_plain(vm.addresses),
            )
    tenants = list(dict.fromkeys(subnet.tenant for subnet in plan.subnets))
    for host in plan.hosts:
        lines += _table(
            "[[provider_host]]",
            name=host.name,
            provider_addresses=host.provider_addresses,
            tenants=tenants,
        )
    for gateway in plan.gateways:
        lines += _table(
            "[[provider_gateway]]", name=gateway.name, provider_addresses=gateway.provider_addresses
        )
    for tenant in tenants:
        lines += _table("[[tenant]]", name=tenant, gateways=[gateway.name for gateway in plan.gateways])
        for subnet in plan.subnets:
            if subnet.tenant == tenant:
                lines += _table(
                    "[[tenant.subnet]]",
                    name=subnet.name,
                    vsid=subnet.vsid,
                    prefixes=subnet.prefixes,
                    gateway=subnet.gateways,
                )
        for vm in plan.vms:
            if vm.tenant == tenant and knows(node, vm):
                for address in _plain(vm.addresses):
                    lines += _table("[[tenant.record]]", ca=address, mac=vm.mac, host=vm.host)
        for site in plan.sites:
            if site.tenant == tenant:
                lines += _site(site)
    return "\n".join(lines)


def write_configurations(lab: Datacenter, knows: Knows = everything) -> dict[str, Path]:
    """Write every node's appliance.toml into the laboratory's directory; return them by the nodes' names."""
    files = {}
    for node in lab.plan.nodes:
        file = files[node.name] = lab.directory / f"{node.name}.toml"
        file.write_text(configuration(lab.plan, node, state=lab.directory / node.name, knows=knows))
    return files


def run_command(file: Path) -> list[str]:
    """Return the command line of `isthmus run FILE`, with the Python that runs us."""
    return [sys.executable, "-m", "gateway.cli", "run", str(file)]


def start(lab: Datacenter, knows: Knows = everything, timeout: float = 20) -> dict[str, Process]:
    """Start every node, wait until all are ready, and return them by name. Raises LabError."""
    processes = {
        name: lab.start(name, lab.node(name), *run_command(file))
        for name, file in write_configurations(lab, knows).items()
    }
    for process in processes.values():
        process.wait_for(r"\bready\b", timeout)
    return processes


def counters(process: Process) -> dict[str, Any]:
    """Ask a running node for its counters: SIGUSR1 has it print them as one line of JSON. Raises LabError."""
    mark = process.size()
    process.send_signal(signal.SIGUSR1)
    line = process.wait_for(r"^\{.*\}$", start=mark).group()
    answer: dict[str, Any] = json.loads(line)
    return answer


def drops(process: Process) -> dict[tuple[str, str], int]:
    """Return how many packets a running node has dropped, by reason and tenant. Raises LabError."""
    return {(drop["reason"], drop["tenant"]): drop["packets"] for drop in counters(process)["drops"]}


def _site(site: Site) -> list[str]:
    """A site's table, and those within it."""
    plain = {key: value for key, value in site.others.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in site.others.items() if isinstance(value, Mapping)}
    lines = _table(
        "[[tenant.site]]",
        name=site.name,
        gateway=site.gateway,
        prefixes=site.prefixes,
        peer=site.peer,
        **plain,
    )
    for key, values in {**tables, "ike": site.ike}.items():
        lines += _table(f"[tenant.site.{key}]", **values)
    return lines


def _table(header: str, **keys: str | int | Iterable[str]) -> list[str]:
    """One table of TOML; strings, integers and arrays of strings are written as JSON writes them."""
    values = ((key, value if isinstance(value, str | int) else list(value)) for key, value in keys.items())
    return [header, *(f"{key} = {json.dumps(value)}" for key, value in values), ""]


def _plain(addresses: Iterable[str]) -> list[str]:
    return [address.partition("/")[0] for address in addresses]
