"""Carries out what the pipeline decided: the one place where packets that could not be sent are counted."""

from __future__ import annotations

import errno
from collections.abc import Callable

from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import Emission, ToPort, ToProvider, ToSite, ToUnderlay, Verdict
from gateway.taps import FindPort, Observer, observed_ports, observed_sending

_REASONS = {
    errno.EAGAIN: DropReason.QUEUE_FULL,
    errno.ENOBUFS: DropReason.QUEUE_FULL,
    errno.ENOMEM: DropReason.QUEUE_FULL,
    errno.EMSGSIZE: DropReason.TOO_BIG,
}

# What the kernel says of an interface that is down or gone, and Ports of one that is not there yet.
_NOT_THERE = frozenset((errno.ENETDOWN, errno.ENXIO, errno.ENODEV))


class Emitter:
    """Sends each emission of a verdict at once, across the underlay, to a VM's port or into a site's tunnel.

    All senders either send or raise OSError. The verdict's own drop has been
    counted by whoever decided it. `hold` takes the frames for ports that are not there.
    """

    def __init__(
        self,
        drops: Drops,
        to_underlay: Callable[[ToUnderlay], None],
        to_port: Callable[[ToPort], None],
        to_site: Callable[[ToSite], None],
        to_provider: Callable[[ToProvider], None],
        hold: Callable[[ToPort], None] | None = None,
    ) -> None:
        self._drops = drops
        self._unobserved = to_underlay, to_port, to_provider
        self._to_underlay, self._to_port, self._to_provider = self._unobserved
        self._to_site = to_site
        self._hold = hold

    def observe(self, observer: Observer | None, find_port: FindPort) -> None:
        """Show someone from now on what is sent and what cannot be, or nobody."""
        self._to_underlay, self._to_port, self._to_provider = self._unobserved
        if observer is not None:
            self._to_underlay = observed_sending(self._to_underlay, observer.underlay_out)
            self._to_port = observed_ports(self._to_port, find_port, observer)
            self._to_provider = observed_sending(self._to_provider, observer.provider_out)

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
            elif isinstance(emission, ToProvider):
                self._to_provider(emission)
            else:
                self._to_site(emission)
        except OSError as error:
            if self._hold is not None and isinstance(emission, ToPort) and is_missing_port(error):
                self._hold(emission)
                return
            self._drops.count(reason_of(error), emission.tenant)


def reason_of(error: OSError) -> DropReason:
    """Return what a packet is counted under that could not be sent."""
    return _REASONS.get(error.errno or 0, DropReason.SEND_FAILED)


def is_missing_port(error: OSError) -> bool:
    """Whether a frame could not be sent because its port is not there: then it may wait for it."""
    return error.errno in _NOT_THERE
