"""The kernel kept from what is sent to our pools: it shall not forward it, and not answer that it cannot.

The addresses of a pool are on no interface, so the kernel takes such a packet for another machine's. Where it
forwards, it would send a second one, or a redirect, or an error; and IPv6 tells the sender even where it does
not forward, if no route is there. A policy rule ends all of it: what comes in by an interface of the
underlay for a pool goes nowhere, in silence. Packet sockets have had it by then, and
what the machine itself sends there does not come in.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.underlay.claims import claimed
from gateway.underlay.interfaces import Link, read_links
from policies.addresses import Prefix
from policies.errors import ConfigurationError, Problem

_log = logging.getLogger("isthmus.underlay")

PRIORITY = 637
"""Of our rules: behind the machine's own addresses (0), before the rules of most machines. Nobody else's."""

_ABOUT_RULES = {"event": "pool-rule"}
_BLACKHOLE = 6  # FR_ACT_BLACKHOLE of <linux/fib_rules.h>
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_REFUSALS = (errno.EPERM, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


class Rule(NamedTuple):
    """What comes in by an interface for a pool goes nowhere."""

    interface: str
    pool: Prefix


def rules_for(interfaces: Iterable[str], pools: Sequence[Prefix]) -> frozenset[Rule]:
    """Return the rules that keep the kernel from some pools."""
    return frozenset(Rule(interface, pool) for interface in interfaces for pool in pools)


def read_rules() -> frozenset[Rule]:
    """Ask the kernel for the rules of this kind. This blocks for some milliseconds."""
    with IPRoute() as netlink:
        return frozenset(_rules(netlink))


def begin_silence(interfaces: Sequence[str], pools: Sequence[Prefix]) -> None:
    """Keep the kernel from pools that this process has claimed. This blocks for some milliseconds.

    Raises ConfigurationError where an address of this machine lies in a pool, for the kernel would take its
    packets, and where rules cannot be added and the kernel would speak.
    """
    found = own_addresses_within(pools, interfaces, read_links())
    if found:
        raise ConfigurationError([Problem("pools", each) for each in found])
    _set_rules(interfaces, pools)
    if not rules_for(interfaces, pools) <= read_rules():
        words = "no rule keeps the kernel from the pools: forwarding must stay off, and IPv6 needs a route"
        _log.warning(words, extra=_ABOUT_RULES)


def keep_silence(interfaces: Sequence[str], pools: Sequence[Prefix], trouble: str) -> str:
    """Put missing rules back, and return what is wrong if that cannot be. This blocks for some milliseconds.

    What is wrong is logged when it is not `trouble`, which it was before.
    """
    try:
        missing = _set_rules(interfaces, pools)
    except (ConfigurationError, NetlinkError) as error:
        if str(error) != trouble:
            _log.error("the kernel is not kept from the pools: %s", error, extra=_ABOUT_RULES)
        return str(error)
    for rule in missing:
        words = "somebody had taken away the rule that keeps the kernel from %s at %s: it is back"
        _log.warning(words, rule.pool, rule.interface, extra=_ABOUT_RULES | {"interface": rule.interface})
    return ""


def end_silence(interfaces: Sequence[str], pools: Sequence[Prefix]) -> None:
    """Take the rules for some pools away. This blocks for some milliseconds."""
    with IPRoute() as netlink:
        for rule in rules_for(interfaces, pools).intersection(_rules(netlink)):
            _remove(netlink, rule)


def forwards(interface: str, version: int) -> bool:
    """Whether the kernel forwards what comes in by an interface."""
    # IPv6 asks the one of all interfaces first.
    path = f"ipv4/conf/{interface}/forwarding" if version == 4 else "ipv6/conf/all/forwarding"
    try:
        return Path("/proc/sys/net", path).read_text().strip() != "0"
    except OSError:
        return False


def own_addresses_within(
    pools: Sequence[Prefix], interfaces: Iterable[str], links: Iterable[Link]
) -> list[str]:
    """Say which of this machine's addresses lie in a pool: the kernel would take their packets, and answer.

    What interfaces apart from the underlay's have learned does not count, or a VM could keep its host from
    starting.
    """
    underlay = frozenset(interfaces)
    return [
        f"{address} of {link.name} lies in the pool {pool}, whose addresses must be on no interface"
        for link in links
        for address in link.addresses
        if link.name in underlay or address not in link.learned
        for pool in pools
        if pool.version == address.version and address.ip in pool
    ]


def _set_rules(interfaces: Sequence[str], pools: Sequence[Prefix]) -> frozenset[Rule]:
    """Add what is missing of the rules for some pools, and return it.

    Rules that are there already stay, and those that a process has left behind for other pools go.
    Raises ConfigurationError where rules cannot be added and the kernel would speak.
    """
    wanted = rules_for(interfaces, pools)
    with IPRoute() as netlink:
        there = frozenset(_rules(netlink))
        try:
            for rule in wanted - there:
                _change(netlink, "add", rule)
        except NetlinkError as error:
            if error.code not in _REFUSALS:
                raise
            _check_is_silent(interfaces, pools, errno.errorcode[error.code])
            return frozenset()
        for rule in there - wanted:
            with suppress(ConfigurationError), ExitStack() as stack:
                if rule.pool not in pools:  # then another process may serve it, which has claimed it
                    stack.enter_context(claimed("pool", str(rule.pool), ""))
                _remove(netlink, rule)
    return wanted - there


def _check_is_silent(interfaces: Sequence[str], pools: Sequence[Prefix], why: str) -> None:
    """Raise ConfigurationError unless the kernel keeps silent by itself about what is for the pools."""
    for version in sorted({pool.version for pool in pools}):
        speaking = [interface for interface in interfaces if forwards(interface, version)]
        if speaking:
            message = (
                f"this machine forwards IPv{version} at {', '.join(speaking)}, and the rule that keeps it"
                f" from the pools cannot be added ({why}): grant CAP_NET_ADMIN, or switch forwarding off"
            )
            raise ConfigurationError([Problem("pools", message)])


def _rules(netlink: IPRoute) -> Iterable[Rule]:
    for family in _FAMILIES.values():
        for message in netlink.get_rules(family=family):
            interface, network = message.get("iifname"), message.get("dst")
            is_ours = message["action"] == _BLACKHOLE and message.get("priority") == PRIORITY
            if is_ours and interface and network:
                yield Rule(interface, ip_network(f"{network}/{message['dst_len']}"))


def _remove(netlink: IPRoute, rule: Rule) -> None:
    try:
        _change(netlink, "del", rule)
    except NetlinkError as error:
        words = "the rule that keeps the kernel from %s at %s stays: %s"
        about = _ABOUT_RULES | {"interface": rule.interface}
        _log.warning(words, rule.pool, rule.interface, error, extra=about)


def _change(netlink: IPRoute, what: str, rule: Rule) -> None:
    netlink.rule(
        what,
        family=_FAMILIES[rule.pool.version],
        priority=PRIORITY,
        iifname=rule.interface,
        dst=str(rule.pool.network_address),
        dst_len=rule.pool.prefixlen,
        action="blackhole",
    )
