"""Carries out what the pipeline decided: the one place where packets that could not be sent are counted."""

from __future__ import annotations

import errno
from collections.abc import Callable

from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import Emission, ToPort, ToSite, ToUnderlay, Verdict

_REASONS = {
    errno.EAGAIN: DropReason.QUEUE_FULL,
    errno.ENOBUFS: DropReason.QUEUE_FULL,
    errno.ENOMEM: DropReason.QUEUE_FULL,
    errno.EMSGSIZE: DropReason.TOO_BIG,
}


class Emitter:
    """Sends each emission of a verdict at once, through the underlay, to a VM's port or into a site's tunnel.

    All senders either send or raise OSError. The verdict's own drop has been
    counted by whoever decided it.
    """

    def __init__(
        self,
        drops: Drops,
        to_underlay: Callable[[ToUnderlay], None],
        to_port: Callable[[ToPort], None],
        to_site: Callable[[ToSite], None],
    ) -> None:
        self._drops = drops
        self._to_underlay = to_underlay
        self._to_port = to_port
        self._to_site = to_site

    def carry_out(self, verdict: Verdict) -> None:
        """Send what a verdict says. What cannot be sent is counted, and nothing is raised."""
        for emission in verdict.emissions:
            self.send(emission)

    def send(self, emission: Emission) -> None:
        """Send one packet or frame, or count why it could not be sent."""
        try:
            if isinstance(emission, ToUnderlay):
                self._to_underlay(emission)
            elif isinstance(emission, ToPort):
                self._to_port(emission)
            else:
                self._to_site(emission)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, DropReason.SEND_FAILED)
            self._drops.count(reason, emission.tenant)
