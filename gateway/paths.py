"""Which data path an appliance carries its packets by, and where that is attached."""

from __future__ import annotations

import logging

import trio

from gateway.builtin import Builtin
from gateway.datapath import DataPath
from gateway.forwarding.directory import Directory, configured_directory
from gateway.forwarding.pmtu import LOWEST_IPV6, OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.host.openvswitch.driver import OpenVswitchDriver
from gateway.host.uses import WatchedDirectory
from gateway.operating.events import Events
from gateway.underlay.interfaces import Attachment, check_ports, choose, read_links
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, RecordsKept

log = logging.getLogger("isthmus")


async def data_path(appliance: Appliance, happenings: Events) -> DataPath:
    """Make the data path: silent until it adopts a network. Raises ConfigurationError."""
    attachment = await trio.to_thread.run_sync(_attach, appliance)
    _warn_of_small_mtu(appliance, attachment.mtu)
    directory = _directory(appliance)
    if appliance.host is not None and appliance.host.driver == "openvswitch":
        return OpenVswitchDriver(appliance, attachment.mtu, directory)
    return Builtin(appliance, attachment, directory, happenings.turns())


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
