"""This node's pools: whether the kernel keeps out of what is rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from gateway.doctor.findings import Finding, Level
from gateway.underlay.interfaces import read_links
from gateway.underlay.silence import PRIORITY, Rule, forwards, own_addresses_within, read_rules, rules_for
from policies.addresses import Prefix
from policies.model import Appliance, Network

AREA = "pools"


class Machine(msgspec.Struct, frozen=True):
    """What has been looked up of a machine with pools."""

    addresses: tuple[str, ...]
    """In words, which of the machine's own addresses lie in a pool."""
    rules: frozenset[Rule]
    """Those that keep the kernel from pools, of any process."""
    forwarding: frozenset[tuple[str, int]]
    """Where the kernel forwards: interfaces, each with a version of IP."""


def own(appliance: Appliance, network: Network) -> tuple[Prefix, ...]:
    """Return the pools that an appliance serves; beside Open vSwitch none, whose hosts rewrite nothing."""
    if appliance.host is not None and appliance.host.driver != "builtin":
        return ()
    return msgspec.structs.replace(appliance, network=network).pools


def look(interfaces: Sequence[str], pools: Sequence[Prefix]) -> Machine:
    """Ask the kernel of this network namespace."""
    return Machine(
        tuple(own_addresses_within(pools, interfaces, read_links())),
        read_rules(),
        frozenset((name, version) for name in interfaces for version in (4, 6) if forwards(name, version)),
    )


def judge(
    machine: Machine, interfaces: Sequence[str], pools: Sequence[Prefix], *, is_running: bool
) -> Iterator[Finding]:
    """Say what of the machine is in the way of its pools."""
    for words in machine.addresses:
        advice = "take it off, or have another pool: the kernel answers for it, and isthmus serves no pool"
        yield Finding(AREA, Level.FAIL, words, advice)
    wanted = rules_for(interfaces, pools)
    if is_running:
        yield from _missing(machine, wanted - machine.rules)
    if pools and (not is_running or wanted <= machine.rules):
        words = f"the kernel is kept from {_list(pools)}"
        yield Finding(AREA, Level.OK, words if is_running else f"{words} while isthmus runs")
    for rule in sorted(machine.rules - wanted, key=str):
        if rule.interface in interfaces:
            words = (
                f"a rule keeps the kernel from {rule.pool} at {rule.interface}, which is no pool of this node"
            )
            advice = f"unless another isthmus here serves it: {_command('del', rule)}"
            yield Finding(AREA, Level.WARN, words, advice)


def _missing(machine: Machine, missing: Iterable[Rule]) -> Iterator[Finding]:
    for rule in sorted(missing, key=str):
        words = f"no rule keeps the kernel from the pool {rule.pool} at {rule.interface}"
        advice = f"somebody has taken it away, or CAP_NET_ADMIN is missing: {_command('add', rule)}"
        if (rule.interface, rule.pool.version) in machine.forwarding:
            words += ", and it forwards there: what isthmus receives goes out a second time, or is answered"
            yield Finding(AREA, Level.FAIL, words, advice)
        else:
            yield Finding(AREA, Level.WARN, words, advice)


def _command(what: str, rule: Rule) -> str:
    family = "ip -6" if rule.pool.version == 6 else "ip"
    return f"{family} rule {what} iif {rule.interface} to {rule.pool} blackhole priority {PRIORITY}"


def _list(pools: Iterable[Prefix]) -> str:
    return ", ".join(map(str, pools))
