"""The command `trace`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway import records_cli
from gateway.command_line import LOOK, MISCONFIGURED, load

if TYPE_CHECKING:
    from policies.model import Appliance

# What the fields of a packet hold.
Octet = Annotated[int, Parameter(validator=Number(gte=0, lte=0xFF))]
Word = Annotated[int, Parameter(validator=Number(gte=0, lte=0xFFFF))]


def register(app: App) -> None:
    """Add this command to the command line."""
    app.command(trace, group=LOOK)


def trace(
    file: Path,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    to: str,
    tenant: str | None = None,
    vsid: int | None = None,
    protocol: str = "icmp",
    port: Word = 0,
    source_port: Word = 49152,
    size: Word = 100,
    hop_limit: Octet = 64,
    fragment: bool = False,
    established: bool = False,
    via: str | None = None,
    from_site: str | None = None,
    json: bool = False,
    service: records_cli.Service = records_cli.NOWHERE,
) -> int:
    """Show what would happen to a packet, step by step, and which rule or route decided.

    Where FILE follows a lookup service, or --lookup names one, the network and its records are
    asked for there; else they are FILE's.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of the gateway or the host that the packet comes to.
    from_
        The customer address that sends.
    to
        The customer address that it sends to.
    tenant
        Whose addresses these are; or give the VSID.
    vsid
        The virtual subnet in which the packet comes in; the sender's, if not given.
    protocol
        tcp, udp or icmp.
    port
        The destination port.
    source_port
        The source port.
    size
        Of the IP packet, in octets.
    hop_limit
        The TTL or hop limit that it comes in with.
    fragment
        Whether it may be fragmented (IPv4).
    established
        For TCP: a segment of an open connection instead of a SYN.
    via
        The provider address that it comes from; the one of the sender's record, if not given.
    from_site
        The site whose tunnel it comes through; the one that the sender is at, if not given. All
        tunnels are taken to be up.
    json
        Print one JSON object.
    """
    from gateway import trace as tracing
    from gateway.forwarding.directory import Directory, configured_directory
    from policies.addresses import CustomerAddress, ProviderAddress, Vsid

    configuration = load(file)
    try:
        question = tracing.Question(
            source=CustomerAddress.parse(from_),
            destination=CustomerAddress.parse(to),
            tenant=tenant,
            vsid=Vsid(vsid) if vsid is not None else None,
            protocol=protocol,
            destination_port=port,
            source_port=source_port,
            size=size,
            hop_limit=hop_limit,
            dont_fragment=not fragment,
            established=established,
            via=ProviderAddress.parse(via) if via is not None else None,
            site=from_site,
        )
    except ValueError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        return MISCONFIGURED

    def explain(appliance: Appliance, directory: Directory) -> None:
        explanation = tracing.explain(appliance, directory, question)
        if json:
            import msgspec

            print(msgspec.json.encode(explanation).decode())
            return
        width = max((len(step.name) for step in explanation.steps), default=0)
        for step in explanation.steps:
            print(f"{step.name:<{width}}  {step.detail}")
        print(f"=> {explanation.verdict}")

    if configuration.lookup_access is None and not service.lookup:
        explain(configuration, configured_directory(configuration))
        return 0
    return records_cli.with_contents(
        configuration, service, tenant, lambda known, records: explain(known, Directory(records))
    )
