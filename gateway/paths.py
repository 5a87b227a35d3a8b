"""Which data path an appliance carries its packets by, and where that is attached."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from gateway.builtin import Builtin
from gateway.datapath import DataPath
from gateway.fastpath import attaching, features, leftovers
from gateway.fastpath.engine import FastPath
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.leftovers import Leftover
from gateway.forwarding.directory import Directory, configured_directory
from gateway.forwarding.pmtu import LOWEST_IPV6, OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.host.openvswitch.driver import OpenVswitchDriver
from gateway.host.uses import WatchedDirectory
from gateway.operating.events import Events
from gateway.underlay.interfaces import Attachment, check_ports, choose, read_links
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine, RecordsKept

log = logging.getLogger("isthmus")


class Opened(msgspec.Struct, frozen=True, eq=False):
    """What is there of the data path before anything runs."""

    attachment: Attachment
    fastpath: FastPath | None = None
    reason: str = ""
    """Why there is no fast path, where one was tried."""
    found: tuple[str, ...] = ()
    """What was found pinned by others on our interfaces, and done about it."""


def opened(appliance: Appliance) -> Opened:
    """Find the underlay's interfaces, and attach the fast path to them where that is wanted and can be.

    This blocks for about a second, and wants the capabilities for it. Raises ConfigurationError.
    """
    attachment = _attach(appliance)
    others, said = _clean_up(leftovers.of_others(appliance.name, attachment.interfaces))
    if not appliance.wants_fastpath:
        attaching.clean(appliance.name)
        return Opened(attachment, found=said)
    found = features.look(attachment.interfaces)
    reason = features.why_not(found, appliance.fastpath)
    if reason is None and others:
        reason = f"has no place: there is {others[0]} and {others[0].owner} runs"
    if reason is None:
        try:
            fastpath = FastPath.open(appliance.name, found, appliance.fastpath)
            return Opened(attachment, fastpath, found=said)
        except BpfRefused as refused:
            reason = f"was refused: {refused}"
    if appliance.engine is Engine.XDP:
        message = (
            f'"xdp" cannot be here: the fast path {reason}; write engine = "auto", and see `isthmus doctor`'
        )
        raise ConfigurationError([Problem("appliance.engine", message)])
    # What an earlier process has left pinned would carry on beside Python, by what it was told then.
    attaching.clean(appliance.name)
    return Opened(attachment, reason=reason, found=said)


def _clean_up(pinned: Iterable[Leftover]) -> tuple[list[Leftover], tuple[str, ...]]:
    """Detach what nobody serves; return what somebody does, and what is to be said of the others."""
    served, said = list[Leftover](), list[str]()
    for each in pinned:
        if each.is_served:
            served.append(each)
            continue
        try:
            each.remove()
        except OSError as refused:
            said.append(f"{each} cannot be detached and carries on by what it was told last: {refused}")
        else:
            said.append(f"{each} is detached: {each.owner} does not run, and nobody tells it of changes")
    return served, tuple(said)


def data_path(appliance: Appliance, has: Opened, happenings: Events) -> DataPath:
    """Make the data path of what has been opened: silent until it adopts a network."""
    _warn_of_small_mtu(appliance, has.attachment.mtu)
    for each in has.found:
        log.warning("%s", each, extra={"event": "fastpath"})
    directory = _directory(appliance)
    if appliance.host is not None and appliance.host.driver == "openvswitch":
        return OpenVswitchDriver(appliance, has.attachment.mtu, directory)
    if has.reason:
        log.info("engine python: the fast path %s", has.reason, extra={"event": "engine"})
    return Builtin(appliance, has.attachment, directory, happenings.turns(), has.fastpath, has.reason)


def _directory(appliance: Appliance) -> Directory:
    """What is known at the start: nothing, where it comes from the lookup service."""
    if not appliance.takes_part:
        return configured_directory(appliance)
    keeps_used = appliance.host is not None and appliance.host.records is RecordsKept.USED
    return WatchedDirectory() if keeps_used else Directory()


def _attach(appliance: Appliance) -> Attachment:
    """Find the underlay's interfaces. Raises ConfigurationError where ports are among them."""
    if appliance.underlay is None:
        raise ConfigurationError([Problem("underlay", "is missing")])
    links = read_links()
    attachment = choose(appliance.underlay, links)
    check_ports(appliance.host.ports if appliance.host else (), attachment, links)
    return attachment


def _warn_of_small_mtu(appliance: Appliance, mtu: int) -> None:
    """Say it where an interface carries too little for IPv6; a configured MTU has been checked before."""
    prefixes = [
        each for tenant in appliance.network.tenants for net in tenant.subnets for each in net.prefixes
    ]
    addresses = appliance.underlay.provider_addresses if appliance.underlay else ()
    overhead = OVERHEAD_IPV6 if any(address.version == 6 for address in addresses) else OVERHEAD_IPV4
    if mtu - overhead < LOWEST_IPV6 and any(prefix.version == 6 for prefix in prefixes):
        log.warning(
            "the underlay's MTU of %d leaves IPv6 guests %d octets: fewer than the %d that every IPv6 link"
            " must carry (RFC 8200 section 5)",
            mtu,
            mtu - overhead,
            LOWEST_IPV6,
            extra={"event": "small-mtu"},
        )
