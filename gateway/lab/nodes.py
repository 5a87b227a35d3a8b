"""Isthmus itself in a planned datacenter: each node's appliance.toml, and its process."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.lab.certificates import AUTHORITY, CertificateAuthority
from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, Node, Plan, Site, Vm

# By default every node has a record of every VM.
Knows = Callable[[Node, Vm], bool]


def everything(_node: Node, _vm: Vm) -> bool:
    """Every node knows every VM."""
    return True


class LookupPlan(msgspec.Struct, frozen=True):
    """Where the lookup service is: the gateways that serve it, by TLS and with a token for each node.

    `files` is the folder with the authority, the certificates and the tokens.
    """

    files: Path
    served_by: tuple[str, ...] = ("edge-1",)
    moving: tuple[str, ...] = ()
    """The VMs that every host has a port for, so that they can move."""
    records: str = "all"
    """Which records hosts keep."""
    etcd: tuple[str, ...] = ()
    """The URLs of a cluster's members; none: a store of its own, beside the one node."""

    def token_file(self, name: str) -> Path:
        return self.files / f"{name}.token"


OPERATOR = "operator"
LOOKUP_PORT = 7637


def write_credentials(lab: Datacenter, lookup: LookupPlan) -> None:
    """Make the authority, the servers' certificates, and everybody's tokens."""
    authority = CertificateAuthority(lookup.files)
    for node in lab.plan.nodes:
        if node.name in lookup.served_by:
            authority.issue(node.name, node.provider_addresses)
    for name in (OPERATOR, *(node.name for node in lab.plan.nodes)):
        file = lookup.token_file(name)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))


def configuration(
    plan: Plan, node: Node, *, state: Path, knows: Knows = everything, lookup: LookupPlan | None = None
) -> str:
    """Write a node's appliance.toml.

    With a lookup service, only the nodes that serve it have the network, and nobody has static
    records; without one, everybody has, of the VMs that it `knows`. A host always has its VMs' ports.
    """
    engine = plan.engine if node in plan.gateways else "python"
    lines = [
        *_table("[appliance]", name=node.name, state=str(state), engine=engine),
        *_table("[underlay]", provider_addresses=node.provider_addresses),
    ]
    serves = lookup is not None and node.name in lookup.served_by
    access = _access(plan, node, lookup) if lookup is not None and not serves else {}
    if node in plan.gateways:
        lines += _table("[gateway]", **access, **({} if access else _pools(node)))
    if serves and lookup is not None:
        lines += _lookup(plan, node, lookup)
    if node in plan.hosts:
        records = {"records": lookup.records} if lookup is not None else {}
        lines += _table("[host]", name=node.name, **access, **records)
        moving = lookup.moving if lookup is not None else ()
        for vm in plan.vms:
            if vm.host == node.name or vm.name in moving:
                lines += _table(
                    "[[host.port]]",
                    interface=vm.port,
                    tenant=vm.tenant,
                    subnet=vm.subnet,
                    mac=vm.mac,
                    addresses=_plain(vm.addresses),
                )
    if lookup is None or serves:
        lines += _network(plan, lambda vm: lookup is None and knows(node, vm))
    return "\n".join(lines)


def _lookup(plan: Plan, node: Node, lookup: LookupPlan) -> list[str]:
    """The role of serving records."""
    listen = f"{node.provider_addresses[0]}:{LOOKUP_PORT}"
    lines = _table("[lookup]", listen=listen, store="etcd" if lookup.etcd else "sqlite")
    certificate, key = lookup.files / f"{node.name}.pem", lookup.files / f"{node.name}.key"
    lines += _table("[lookup.tls]", cert=str(certificate), key=str(key))
    if lookup.etcd:
        lines += _table("[lookup.etcd]", endpoints=lookup.etcd)
    roles = {OPERATOR: "operator"}
    roles |= {host.name: "host" for host in plan.hosts}
    roles |= {gateway.name: "gateway" for gateway in plan.gateways}
    for name, role in roles.items():
        token_file = str(lookup.token_file(name))
        lines += _table("[[lookup.token]]", name=name, role=role, token_file=token_file)
    return lines


def _access(plan: Plan, node: Node, lookup: LookupPlan) -> dict[str, str | list[str]]:
    """How a node reaches the lookup service."""
    servers = [other for other in plan.nodes if other.name in lookup.served_by]
    return {
        "lookup": [f"https://{server.provider_addresses[0]}:{LOOKUP_PORT}" for server in servers],
        "token_file": str(lookup.token_file(node.name)),
        "ca": str(lookup.files / AUTHORITY),
    }


def _network(plan: Plan, has_record: Callable[[Vm], bool]) -> list[str]:
    """The tables that are the same on every node."""
    lines: list[str] = []
    tenants = list(dict.fromkeys(subnet.tenant for subnet in plan.subnets))
    for host in plan.hosts:
        lines += _table(
            "[[provider_host]]",
            name=host.name,
            provider_addresses=host.provider_addresses,
            tenants=tenants,
            **_pools(host),
        )
    for gateway in plan.gateways:
        lines += _table(
            "[[provider_gateway]]",
            name=gateway.name,
            provider_addresses=gateway.provider_addresses,
            **_pools(gateway),
        )
    for tenant in tenants:
        gateways = [gateway.name for gateway in plan.gateways]
        leases = {"leases": plan.leases[tenant]} if tenant in plan.leases else {}
        lines += _table("[[tenant]]", name=tenant, gateways=gateways, **leases)
        for subnet in plan.subnets:
            if subnet.tenant == tenant:
                lines += _table(
                    "[[tenant.subnet]]",
                    name=subnet.name,
                    vsid=subnet.vsid,
                    prefixes=subnet.prefixes,
                    gateway=subnet.gateways,
                    translation=subnet.translation,
                )
        for vm in plan.vms:
            if vm.tenant == tenant and has_record(vm):
                for address in _plain(vm.addresses):
                    lines += _table("[[tenant.record]]", ca=address, mac=vm.mac, host=vm.host)
        for site in plan.sites:
            if site.tenant == tenant:
                lines += _site(site)
    return lines


def write_configurations(
    lab: Datacenter, knows: Knows = everything, lookup: LookupPlan | None = None
) -> dict[str, Path]:
    """Write every node's appliance.toml into the laboratory's directory; return them by the nodes' names."""
    files = {}
    for node in lab.plan.nodes:
        file = files[node.name] = lab.directory / f"{node.name}.toml"
        state = lab.directory / node.name
        file.write_text(configuration(lab.plan, node, state=state, knows=knows, lookup=lookup))
    return files


def run_command(file: Path) -> list[str]:
    """Return the command line of `isthmus run FILE`, with the Python that runs us."""
    return [sys.executable, "-m", "gateway.cli", "run", str(file)]


def start(
    lab: Datacenter, knows: Knows = everything, lookup: LookupPlan | None = None, timeout: float = 20
) -> dict[str, Process]:
    """Start every node, wait until all are ready, and return them by name. Raises LabError."""
    if lookup is not None:
        write_credentials(lab, lookup)
    processes = {
        name: lab.start(name, lab.node(name), *run_command(file))
        for name, file in write_configurations(lab, knows, lookup).items()
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


def _pools(node: Node) -> dict[str, Iterable[str]]:
    return {"pools": node.pools} if node.pools else {}


def _plain(addresses: Iterable[str]) -> list[str]:
    return [address.partition("/")[0] for address in addresses]
