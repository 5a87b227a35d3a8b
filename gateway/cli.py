"""The command `isthmus`. Exit codes: 0 done, 1 failed, 2 misused or misconfigured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway import records_cli
from policies.errors import ConfigurationError, Unanswered

if TYPE_CHECKING:
    from policies.model import Appliance

app = App(
    name="isthmus",
    help="Joins tenants' virtual networks over NVGRE: a gateway, a host's virtual switch, and their tools.",
    version_flags=["--version"],
)

records_cli.register(app)

# What the fields of a packet hold.
Octet = Annotated[int, Parameter(validator=Number(gte=0, lte=0xFF))]
Word = Annotated[int, Parameter(validator=Number(gte=0, lte=0xFFFF))]

MISCONFIGURED = 2


@app.command
def run(file: Path) -> int:
    """Run the roles that FILE gives this machine, in the foreground, until SIGTERM, SIGHUP or Ctrl-C.

    SIGUSR1 prints the counters as one line of JSON.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    """
    from gateway import signals

    signals.hold()  # before what takes time: loading the rest, and reading the configuration
    from gateway import appliance

    return appliance.main(_load(file), lambda: _load(file))


@app.command
def check(file: Path) -> int:
    """Read FILE, and list everything that is wrong with it.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    """
    from gateway.sites.policies import peer_policies, secrets_shared

    configuration = _load(file)
    for words in secrets_shared(peer_policies(configuration)):
        print(f"{file}: warning: {words}", file=sys.stderr)
    network = configuration.network
    subnets = sum(len(tenant.subnets) for tenant in network.tenants)
    sites = sum(len(tenant.sites) for tenant in network.tenants)
    print(
        f"{file}: sound: {configuration.name}, {len(network.tenants)} tenants,"
        f" {subnets} virtual subnets, {sites} sites, {len(network.hosts)} hosts"
    )
    return 0


@app.command
def sites(file: Path, *, json: bool = False) -> int:
    """Show the sites of the appliance that runs by FILE: up or down since when, and why.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON array.
    """
    import time

    import msgspec

    from gateway.sites import listing
    from gateway.sites.status import SiteStatus

    answer = _ask(file, "sites")
    if json:
        print(msgspec.json.encode(answer).decode())
    else:
        for line in listing.lines(msgspec.convert(answer, list[SiteStatus]), time.time()):
            print(line)
    return 0


@app.command
def reload(file: Path) -> int:
    """Have the appliance that runs by FILE read it again: sites, routes and access rules.

    One that serves or follows lookup records takes all of the network, the host's ports and
    who may ask, too. A site whose secret, certificate or settings have changed
    authenticates again; one that is gone is deleted at its peer; the others are left alone.
    Whatever is wrong is listed, and then nothing has changed.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    """
    print(_ask(file, "reload"))
    return 0


@app.command
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

    configuration = _load(file)
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


@app.command
def demo(*, keep: bool = False, pcap: Path | None = None) -> int:
    """Build a small datacenter in network namespaces, and prove what Isthmus does there.

    Parameters
    ----------
    keep
        Leave it up until Enter is pressed, and say how to enter a VM.
    pcap
        Leave captures of the underlay in this folder, for Wireshark.
    """
    from gateway.lab import demo as demonstration

    return demonstration.run(keep=keep, pcap=pcap)


def _ask(file: Path, command: str) -> Any:
    from gateway import control
    from policies.config import load_name_and_state

    name, state = load_name_and_state(file)
    return control.ask(control.socket_path(state, name), command)


def _load(file: Path) -> Appliance:
    from policies.config import load

    return load(file)


def main() -> None:
    """Run one command, and exit with its code."""
    try:
        sys.exit(app())
    except* Unanswered as unanswered:
        print(f"isthmus: {unanswered.exceptions[0]}", file=sys.stderr)
        sys.exit(1)
    except* ConfigurationError as group:
        problems = [
            problem
            for error in _leaves(group)
            if isinstance(error, ConfigurationError)
            for problem in error.problems
        ]
    for problem in problems:
        print(problem, file=sys.stderr)
    noun = "problem" if len(problems) == 1 else "problems"
    print(f"isthmus: {len(problems)} {noun}", file=sys.stderr)
    sys.exit(MISCONFIGURED)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


if __name__ == "__main__":
    main()
