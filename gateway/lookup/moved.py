"""Says of each record that moves where it goes: in one line, on every node that hears of it."""

from __future__ import annotations

import logging

from policies.addresses import Vsid
from policies.model import LookupRecord, Network

log = logging.getLogger("isthmus.lookup")


class Mover:
    """Knows whose each virtual subnet is, as long as the network is the same."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._tenants: dict[Vsid, str] = {}

    def moved(self, before: LookupRecord, after: LookupRecord, network: Network) -> None:
        """Say that a record is at another host now."""
        if network is not self._network:
            self._network = network
            self._tenants = {
                subnet.vsid: tenant.name for tenant in network.tenants for subnet in tenant.subnets
            }
        log.info(
            "%d/%s has moved from %s to %s, epoch %d",
            after.vsid,
            after.ca,
            before.host,
            after.host,
            after.epoch,
            extra={
                "event": "moved",
                "tenant": self._tenants.get(after.vsid),
                "vsid": after.vsid,
                "ca": after.ca,
                "mac": after.mac,
                "host": after.host,
                "previous_host": before.host,
            },
        )
