"""What the fast path has on this machine, what happens without each, and what does not see its packets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.doctor.findings import Finding, Level
from gateway.doctor.firewall import Rules
from gateway.fastpath import attaching, features, leftovers
from gateway.fastpath.features import MOST_IN_ONE_BUFFER, Feature, Features, Interface
from gateway.fastpath.leftovers import Leftover
from policies.model import Appliance, Engine, FastPathMode

AREA = "fast path"

_MANUAL = "docs/fastpath.md says more"
_ROOT = "ask as root; the appliance itself needs these capabilities, too"


class Machine(msgspec.Struct, frozen=True):
    """What has been looked up."""

    features: Features
    verified: Feature | None = None
    """None: not tried, since nothing can be loaded."""
    is_roots: bool = True
    """Whether root has looked: what others may not says nothing of the appliance."""
    old_tables: tuple[str, ...] = ()
    """Those of the iptables before nftables that are in use."""
    strict_sources: frozenset[str] = frozenset()
    """The interfaces that take a packet only from where the way back leads."""
    pinned: frozenset[int] = frozenset()
    """The programs that this appliance has pinned."""
    others: tuple[Leftover, ...] = ()
    """What appliances of other names have."""


def look(name: str, interfaces: Sequence[str], strict_sources: frozenset[str]) -> Machine:
    """Try what there is. This blocks for about a second."""
    found = features.look(interfaces)
    can_load = all(each.why_not is None for each in found.kernel if each.is_needed)
    return Machine(
        features=found,
        verified=features.verified() if can_load else None,
        is_roots=os.geteuid() == 0,
        old_tables=_old_tables(),
        strict_sources=strict_sources,
        pinned=attaching.pinned_programs(name),
        others=leftovers.of_others(name, interfaces),
    )


def judge(machine: Machine, rules: Rules, appliance: Appliance, *, runs: bool) -> Iterator[Finding]:
    """Say what of it matters to an appliance; `runs`: whether it has a fast path now."""
    missing = Level.FAIL if appliance.engine is Engine.XDP else Level.WARN
    yield from _kernel(machine, missing)
    if appliance.fastpath.pinned:
        yield _feature(machine.features.pinning, missing, "mount it, or leave out pinned")
    for each in machine.features.interfaces:
        yield from _interface(each, appliance.fastpath.mode, missing)
        yield from _programs(each, machine, missing, runs=runs)
    yield from _past(machine, rules)


def _kernel(machine: Machine, missing: Level) -> Iterator[Finding]:
    untried = []
    advice = _MANUAL
    for feature in machine.features.kernel:
        if feature.why_not == features.NOT_TRIED:
            untried.append(feature.name)
            continue
        level = missing if feature.is_needed else Level.WARN
        if feature.name == features.PERMISSION and not machine.is_roots:
            level = Level.SKIPPED
        if feature.name == features.PERMISSION and feature.why_not is not None:
            advice = _ROOT
        yield _feature(feature, level, advice)
    if untried:
        yield Finding(AREA, Level.SKIPPED, f"not tried: {', '.join(untried)}", advice)
    if machine.verified is not None:
        yield _feature(machine.verified, missing, "report this, with the kernel's version: uname -r")


def _feature(feature: Feature, level: Level, advice: str) -> Finding:
    if feature.why_not is None:
        return Finding(AREA, Level.OK, f"{feature.name}: there; without it {feature.without}")
    words = f"{feature.name}: {feature.why_not}; without it {feature.without}"
    return Finding(AREA, level, words, advice)


def _interface(interface: Interface, mode: FastPathMode, missing: Level) -> Iterator[Finding]:
    if mode is FastPathMode.GENERIC:
        yield Finding(AREA, Level.OK, f"{interface.name}: generic, as the configuration has it")
        return
    reason = features.why_not_native(interface)
    so = (
        "it is refused" if mode is FastPathMode.NATIVE else "all interfaces are generic, several times slower"
    )
    level = missing if mode is FastPathMode.NATIVE else Level.WARN
    if reason is not None:
        advice = 'have GRO on at the far end of a veth (ethtool -K NAME gro on), or write mode = "generic"'
        yield Finding(AREA, level, f"{reason}; without it {so}", advice)
    elif interface.driver is None:
        words = (
            f"{interface.name}: whether its driver has native XDP, this kernel does not tell (Linux 6.3 does)"
        )
        yield Finding(AREA, Level.SKIPPED, words, "start the appliance: it tries, and `isthmus status` says")
    else:
        yield Finding(AREA, Level.OK, f"{interface.name}: its driver has native XDP; without it {so}")
    if interface.kind == "veth" and interface.driver is None:
        words = f"{interface.name} is a veth: whether its far end takes what a program sends is not seen here"
        yield Finding(AREA, Level.SKIPPED, words, "have GRO on there: ethtool -K NAME gro on")
    if interface.mtu > MOST_IN_ONE_BUFFER:
        words = (
            f"{interface.name}: native XDP takes a packet in one page, and most drivers refuse it for more"
            f" than about {MOST_IN_ONE_BUFFER} octets; the MTU is {interface.mtu}; without it {so}"
        )
        yield Finding(AREA, level, words, 'lower the MTU, or write mode = "generic"')


def _programs(interface: Interface, machine: Machine, missing: Level, *, runs: bool) -> Iterator[Finding]:
    if not interface.programs:
        return
    numbers = ", ".join(map(str, interface.programs))
    if runs:
        yield Finding(AREA, Level.OK, f"{interface.name}: its packets meet the program {numbers}")
    elif machine.pinned.issuperset(interface.programs):
        words = f"{interface.name}: its packets meet the program {numbers}, which this appliance has pinned"
        yield Finding(AREA, Level.WARN, words, "start it: nobody tells the program of changes meanwhile")
    elif others := [each for each in machine.others if each.program in interface.programs]:
        yield from _of_others(others, missing)
    else:
        words = f"{interface.name} has a program of XDP already ({numbers}), which is left alone"
        advice = "`bpftool net` says whose"
        yield Finding(AREA, missing, words, advice)


def _of_others(others: Sequence[Leftover], missing: Level) -> Iterator[Finding]:
    for each in others:
        if each.is_served:
            words = f"there is {each} and {each.owner} runs"
            yield Finding(AREA, missing, words, "one isthmus alone can have a fast path on an interface")
        else:
            words = f"there is {each} and nobody tells it of changes: {each.owner} does not run"
            advice = f"the next start detaches it; rm -r {each.pin.parent} does so now"
            yield Finding(AREA, Level.WARN, words, advice)


def _past(machine: Machine, rules: Rules) -> Iterator[Finding]:
    """What tenants' packets pass by, now that nothing but the program sees them."""
    names = ", ".join(each.name for each in machine.features.interfaces)
    yield Finding(
        AREA,
        Level.OK,
        f"tcpdump on {names} does not see what it carries: `isthmus capture FILE` shows all packets",
    )
    if rules.filtering or machine.old_tables:
        old = [f"iptables {name}" for name in machine.old_tables]
        words = f"what it carries passes by the rules of {', '.join([*rules.filtering, *old])}"
        advice = (
            'they hold for what Python carries; filter GRE before this machine, or write engine = "python"'
        )
        yield Finding(AREA, Level.WARN, words, advice)
    elif rules.why_not is not None:
        words = "what it carries passes by the rules of nftables; whether there are any is not known"
        yield Finding(AREA, Level.SKIPPED, f"{words}: {rules.why_not}", "ask as root")
    else:
        words = "what it carries would pass by the rules of nftables and iptables, and there are none"
        yield Finding(AREA, Level.OK, words)
    if filtered := [each.name for each in machine.features.interfaces if each.is_filtered]:
        words = f"what it carries passes by the filters of tc at {', '.join(filtered)}"
        yield Finding(AREA, Level.WARN, words, "`tc filter show dev NAME ingress` shows them")
    if strict := [each.name for each in machine.features.interfaces if each.name in machine.strict_sources]:
        words = (
            f"rp_filter=1 at {', '.join(strict)} does not hold for what it carries, whose senders are known"
            " by the addresses of the network's hosts alone"
        )
        yield Finding(AREA, Level.OK, words)


def _old_tables() -> tuple[str, ...]:
    found: list[str] = []
    for file in ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"):
        try:
            found += Path(file).read_text().split()
        except OSError:
            continue
    return tuple(dict.fromkeys(found))
