"""The command `trace`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway.cli.asking import NOWHERE, Service, with_contents
from gateway.cli.command_line import INSTALLED, LOOK, ask, load, say_json
from policies.errors import Unanswered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.operating.tracing import Packet
    from gateway.trace.explaining import Explanation
    from policies.model import Appliance, Lease, LookupRecord

# What the fields of a packet hold.
Octet = Annotated[int, Parameter(validator=Number(gte=0, lte=0xFF))]
Word = Annotated[int, Parameter(validator=Number(gte=0, lte=0xFFFF))]


def register(app: App) -> None:
    """Add this command to the command line."""
    app.command(trace, group=LOOK)


def trace(
    file: Path = INSTALLED,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")] = "",
    to: str = "",
    from_provider: str = "",
    to_provider: str = "",
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
    by_file: Annotated[bool, Parameter(name="--file")] = False,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Show what would happen to a packet, step by step, and which rule or route decided.

    If the appliance of FILE runs here, it is asked: by its own tables and records, with its tunnels as
    they are now. It counts, learns and sends nothing because of that. If it does not run, or with
    --file, FILE decides; where FILE follows a lookup service, or --lookup names one, the network and
    its records are asked for there. Which it was is said in the first line.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of the gateway or the host that the packet comes to.
    from_
        The customer address that sends.
    to
        The customer address that it sends to.
    from_provider
        Instead of --from: the provider address that a rewritten packet comes from.
    to_provider
        Instead of --to: the one that it is for. They say whose it is; --tenant and the like don't.
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
        The provider address that it comes from, rewritten if it is of a pool; the one of the sender's
        record, if not given.
    from_site
        The site whose tunnel it comes through; the one that the sender is at, if not given.
    by_file
        Ask FILE and not the appliance that runs by it. All tunnels are taken to be up.
    json
        Print one JSON object.
    """
    from gateway.operating.tracing import Packet

    packet = Packet(
        from_=from_,
        to=to,
        from_provider=from_provider,
        to_provider=to_provider,
        tenant=tenant,
        vsid=vsid,
        protocol=protocol,
        port=port,
        source_port=source_port,
        size=size,
        hop_limit=hop_limit,
        fragment=fragment,
        established=established,
        via=via,
        from_site=from_site,
    )
    packet.question()  # what cannot be read is said whoever is asked
    if by_file or service.lookup:
        return _by_file(file, packet, service, json=json)
    try:
        _ask_running(file, packet, json=json)
    except Unanswered as unanswered:
        print(f"{unanswered}\nthe file is asked instead", file=sys.stderr)
        return _by_file(file, packet, service, json=json)
    return 0


def _ask_running(file: Path, packet: Packet, *, json: bool) -> None:
    import msgspec

    from gateway.trace.explaining import Explanation

    arguments = msgspec.to_builtins(packet)
    _show(msgspec.convert(ask(file, "trace", arguments), Explanation), "the running appliance", json=json)


def _by_file(file: Path, packet: Packet, service: Service, *, json: bool) -> int:
    from gateway.forwarding.directory import Directory, PutLease, configured_directory
    from gateway.trace.explaining import explain

    configuration, question = load(file), packet.question()
    if configuration.lookup_access is None and not service.lookup:
        directory = configured_directory(configuration)
        _show(explain(configuration, directory, question), str(file), json=json)
        return 0

    def show(known: Appliance, records: Sequence[LookupRecord], leases: Sequence[Lease]) -> None:
        directory = Directory(records)
        for lease in leases:
            directory.apply(PutLease(lease))
        _show(explain(known, directory, question), f"{file} and the lookup service", json=json)

    return with_contents(configuration, service, packet.tenant, show)


def _show(explanation: Explanation, decided_by: str, *, json: bool) -> None:
    if json:
        import msgspec

        say_json({"by": decided_by, **msgspec.to_builtins(explanation)})
        return
    print(f"by {decided_by}")
    width = max((len(step.name) for step in explanation.steps), default=0)
    for step in explanation.steps:
        print(f"{step.name:<{width}}  {step.detail}")
    print(f"=> {explanation.verdict}")
