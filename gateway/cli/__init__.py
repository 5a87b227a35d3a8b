"""The command `isthmus`. Exit codes: 0 done, 1 failed, 2 misused or misconfigured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cyclopts import App, Parameter

from gateway.cli import capture, doctor, firewall, look, lookup, records, reload, top, trace
from gateway.cli.command_line import LAB, MISCONFIGURED, RUN, load, say_json
from policies.errors import ConfigurationError, Problem, Unanswered


def _version() -> str:
    from importlib.metadata import version

    return version("isthmus")


app = App(
    name="isthmus",
    help="Joins tenants' virtual networks over NVGRE: a gateway, a host's virtual switch, and their tools.",
    version=_version,
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
)

look.register(app)
reload.register(app)
firewall.register(app)
doctor.register(app)
top.register(app)
trace.register(app)
capture.register(app)
lookup.register(app)
records.register(app)


@app.command(group=RUN)
def run(file: Path) -> int:
    """Run the roles that FILE gives this machine, in the foreground, until SIGTERM or Ctrl-C.

    SIGHUP has it read FILE again, as `isthmus reload` does; SIGUSR1 prints the counters as one line of JSON.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    """
    from gateway.process import signals

    signals.hold()  # before what takes time: loading the rest, and reading the configuration
    from gateway import appliance
    from gateway.process import privileges

    configuration = load(file)
    is_pipe = not file.is_file()
    if privileges.give_up(configuration, file) and not is_pipe:
        configuration = load(file)  # what a reload could not read any more is said now
    return appliance.main(configuration, lambda other: load(other or file))


@app.command(group=RUN)
def check(file: Path, *, json: bool = False) -> int:
    """Read FILE, and list everything that is wrong with it.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON object, with everything that is wrong in `problems`.
    """
    from gateway.sites.policies import peer_policies, secrets_shared

    if json:
        return _check_in_json(file)
    configuration = load(file)
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


def _check_in_json(file: Path) -> int:
    from gateway.sites.policies import peer_policies, secrets_shared

    problems: list[Problem] = []
    warnings: list[str] = []
    try:
        warnings += secrets_shared(peer_policies(load(file)))
    except ConfigurationError as error:
        problems += error.problems
    say_json({"problems": problems, "warnings": warnings})
    return MISCONFIGURED if problems else 0


@app.command(group=LAB)
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


def main() -> None:
    """Run one command, and exit with its code."""
    try:
        try:
            sys.exit(app())
        finally:
            sys.stdout.flush()
    except* BrokenPipeError:
        # Whoever reads us, such as `head`, has had enough. Python would flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
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
