"""Which data path an appliance carries its packets by, and where that is attached."""

from __future__ import annotations

import logging
from functools import partial

import trio

from gateway.builtin import Builtin
from gateway.datapath import DataPath
from gateway.fastpath import attaching, features
from gateway.fastpath.engine import FastPath
from gateway.fastpath.kernel import BpfRefused
from gateway.forwarding.directory import Directory, configured_directory
from gateway.forwarding.pmtu import LOWEST_IPV6, OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.host.openvswitch.driver import OpenVswitchDriver
from gateway.host.uses import WatchedDirectory
from gateway.operating.events import Events
from gateway.underlay.interfaces import Attachment, check_ports, choose, read_links
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine, RecordsKept

log = logging.getLogger("isthmus")


async def data_path(appliance: Appliance, happenings: Events) -> DataPath:
    """Make the data path: silent until it adopts a network. Raises ConfigurationError."""
    attachment = await trio.to_thread.run_sync(_attach, appliance)
    _warn_of_small_mtu(appliance, attachment.mtu)
    directory = _directory(appliance)
    if appliance.host is not None and appliance.host.driver == "openvswitch":
        return OpenVswitchDriver(appliance, attachment.mtu, directory)
    fastpath, reason = await _fast_path(appliance, attachment)
    return Builtin(appliance, attachment, directory, happenings.turns(), fastpath, reason)


async def _fast_path(appliance: Appliance, attachment: Attachment) -> tuple[FastPath | None, str]:
    """Open the fast path, or return why there is none. Raises ConfigurationError where it is asked for."""
    if appliance.engine is Engine.PYTHON or not appliance.gateway:
        await trio.to_thread.run_sync(attaching.clean, appliance.name)
        return None, ""
    found = await trio.to_thread.run_sync(features.look, attachment.interfaces)
    reason = features.why_not(found, appliance.fastpath)
    if reason is None:
        opening = partial(FastPath.open, appliance.name, found, appliance.fastpath)
        try:
            return await trio.to_thread.run_sync(opening), ""
        except BpfRefused as refused:
            reason = f"was refused: {refused}"
    if appliance.engine is Engine.XDP:
        message = (
            f'"xdp" cannot be here: the fast path {reason}; write engine = "auto", and see `isthmus doctor`'
        )
        raise ConfigurationError([Problem("appliance.engine", message)])
    # What an earlier process has left pinned would carry on beside Python, by what it was told then.
    await trio.to_thread.run_sync(attaching.clean, appliance.name)
    log.info("engine python: the fast path %s", reason, extra={"event": "engine"})
    return None, reason


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
