"""The commands about a lookup service's network and nodes, besides those about its records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from gateway.cli.asking import NOWHERE, Service, access, find, usage, vsid_of
from gateway.cli.command_line import INSTALLED, LOOKUP, ask, say_json
from policies.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from policies.addresses import CustomerAddress, MacAddress


def register(app: App) -> None:
    """Add these commands to the command line."""
    for command in (apply, migrate, moves, nodes, leases, pools, alerts):
        app.command(command, group=LOOKUP)


def apply(file: Path, *, dry_run: bool = False, json: bool = False, service: Service = NOWHERE) -> int:
    """Have a lookup service's network be as in FILE, and show what that changes.

    Hosts, gateways, tenants and static records that are not in FILE are deleted; the records
    of VMs stay.

    Parameters
    ----------
    file
        The configuration with the network; it also says where the lookup service is, unless --lookup does.
    dry_run
        Change nothing: show what would be changed.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands
    from policies.config import load

    appliance = load(file)
    # The file of a gateway that follows has itself in its network, and nothing else.
    if not (appliance.network.tenants or appliance.network.hosts):
        raise ConfigurationError([Problem("", f"{file} has no network: it would delete the whole one")])
    return commands.run(
        find(appliance, service),
        lambda client: commands.apply(client, appliance.network, dry_run=dry_run, json=json),
    )


def migrate(
    file: Path | None = None,
    *,
    vm: str,
    to: str,
    tenant: str | None = None,
    vsid: int | None = None,
    pa: str | None = None,
    wait: float = 1.0,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Move a VM's records to another host, before the VM resumes there, and wait until both hosts know.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records.
    vm
        One of the VM's customer addresses, or its MAC address.
    to
        The host where it will be.
    tenant
        Whose VM it is; or give the VSID.
    vsid
        The virtual subnet.
    pa
        The new host's provider address; the first of the present one's IP version, if not given.
    wait
        For how many seconds the old and the new host are waited for.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands
    from policies.addresses import CustomerAddress, MacAddress, ProviderAddress

    with usage():
        only = vsid_of(tenant, vsid)
        machine: CustomerAddress | MacAddress
        is_mac = len(vm) == len("02:00:00:00:01:05") and len(vm.replace("-", ":").split(":")) == 6
        machine = MacAddress.parse(vm) if is_mac else CustomerAddress.parse(vm)
        address = ProviderAddress.parse(pa) if pa is not None else None
    return commands.run(
        access(file, service),
        lambda client: commands.migrate(
            client, tenant, only, machine, to=to, pa=address, wait=wait, json=json
        ),
    )


def nodes(file: Path | None = None, *, json: bool = False, service: Service = NOWHERE) -> int:
    """Show the hosts and gateways that follow a lookup node, and what they have learned.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands

    return commands.run(access(file, service), lambda client: commands.nodes(client, json=json))


def leases(
    file: Path | None = None,
    *,
    tenant: str | None = None,
    node: str | None = None,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Show which provider addresses of gateways' pools stand for which customer addresses.

    Rewritten VMs' own are shown by `records list`.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    tenant
        Only this tenant's.
    node
        Only those of this gateway.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands, lease_commands

    return commands.run(
        access(file, service),
        lambda client: lease_commands.leases(client, tenant=tenant, node=node, json=json),
    )


def pools(file: Path | None = None, *, json: bool = False, service: Service = NOWHERE) -> int:
    """Show the pools of provider addresses: whose they are, and how many addresses are held, and left.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands, lease_commands

    return commands.run(access(file, service), lambda client: lease_commands.pools(client, json=json))


def alerts(file: Path | None = None, *, json: bool = False, service: Service = NOWHERE) -> int:
    """Show the last alerts of a lookup node: what it refused, and records that moved too often.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands

    return commands.run(access(file, service), lambda client: commands.alerts(client, json=json))


def moves(file: Path = INSTALLED, *, json: bool = False) -> int:
    """Show the last moves of records that the appliance which runs by FILE has seen, the newest first.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON array.
    """
    import msgspec

    from gateway.lookup.movements import Move, in_words

    answer = ask(file, "moves")
    if json:
        say_json(answer)
        return 0
    found = msgspec.convert(answer, list[Move])
    for move in found:
        for line in in_words(move):
            print(line)
    if not found:
        print("no record has moved since this appliance started")
    return 0
