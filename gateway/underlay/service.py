"""Carries NVGRE packets between the underlay and whoever decides about them, on trio."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing

import trio

from gateway.forwarding.verdicts import OuterHeader, ToUnderlay
from gateway.underlay.claims import claimed
from gateway.underlay.interfaces import Attachment
from gateway.underlay.merged import split_untrusted
from gateway.underlay.offloads import merging_off
from gateway.underlay.sockets import GreSocket, PathMtuReport, open_socket
from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError, Problem

Receive = Callable[[OuterHeader, bytes, float], object]
"""Takes what the outer header said, the GRE header with all that follows it, and the time."""

WorthSplitting = Callable[[OuterHeader, bytes], bool]
"""Whether anything would be taken from who sent this packet, which may become many."""

# Packets taken from a socket before other tasks get their turn: few enough that they don't
# wait long (about 2 ms), enough that waiting costs little for each packet.
BATCH = 64


class Underlay:
    """Our provider addresses' sockets. They are open while `serve` runs."""

    def __init__(self) -> None:
        self.merged = 0
        """Packets above the MTU: merged by GRO and cut again, or reassembled from fragments."""
        self._sockets: dict[bytes, GreSocket] = {}

    @property
    def icmp_errors(self) -> int:
        """Errors that the network reported about packets we sent."""
        return sum(each.icmp_errors for each in self._sockets.values())

    @property
    def kernel_drops(self) -> int:
        """Packets that came while a socket's buffer was full."""
        return sum(each.kernel_drops for each in self._sockets.values())

    def send(self, packet: ToUnderlay) -> None:
        """Send a packet now from the address that it names, or raise OSError."""
        sender = self._sockets.get(packet.source)
        if sender is None:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        sender.send(packet)

    async def serve(
        self,
        addresses: Iterable[ProviderAddress],
        attachment: Attachment,
        receive: Receive,
        worth_splitting: WorthSplitting,
        path_mtu_reported: Callable[[bytes, int, int, float], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give every packet for our addresses to `receive`; started once all sockets are open.

        `worth_splitting` is asked about a packet above the MTU before it is cut into many.
        `path_mtu_reported` takes a destination, the VSID of a packet that was too big for
        the path to it, what that path carries, and the time.
        Raises ConfigurationError where a socket cannot be opened, or another process has one.
        """

        def report(destination: bytes, vsid: int, mtu: int) -> None:
            path_mtu_reported(destination, vsid, mtu, trio.current_time())

        with ExitStack() as stack:
            for address in addresses:
                stack.enter_context(claimed("underlay", str(address), "underlay.provider_addresses"))
                opened = stack.enter_context(closing(_open(address, report)))
                self._sockets[address] = opened
                stack.callback(self._sockets.pop, address)
            stack.enter_context(merging_off(attachment.interfaces))
            async with trio.open_nursery() as nursery:
                for each in self._sockets.values():
                    largest = attachment.mtu - each.header_length
                    nursery.start_soon(self._receive_all, each, largest, receive, worth_splitting)
                task_status.started()

    async def _receive_all(
        self, source: GreSocket, largest: int, receive: Receive, worth_splitting: WorthSplitting
    ) -> None:
        while True:
            await trio.lowlevel.wait_readable(source.fileno())
            while self._receive_batch(source, largest, receive, worth_splitting, trio.current_time()):
                await trio.lowlevel.checkpoint()

    def _receive_batch(
        self, source: GreSocket, largest: int, receive: Receive, worth_splitting: WorthSplitting, now: float
    ) -> bool:
        """Take what waits, and say whether more may."""
        take = source.receive
        # Of packets as they were on the wire: a merged one is some forty of them.
        taken = 0
        while taken < BATCH:
            try:
                outer, payload = take()
            except BlockingIOError:
                if taken == 0:  # woken for something else than a packet
                    source.heed_errors()
                return False
            except OSError:
                source.heed_errors()
                taken += 1
                continue
            if len(payload) <= largest:
                receive(outer, payload, now)
                taken += 1
                continue
            self.merged += 1
            pieces = split_untrusted(payload, largest) if worth_splitting(outer, payload) else [payload]
            for each in pieces:
                receive(outer, each, now)
            taken += len(pieces)
        return True


def _open(address: ProviderAddress, report: PathMtuReport) -> GreSocket:
    try:
        return open_socket(address, report)
    except PermissionError:
        problem = Problem("underlay", "raw sockets need root or CAP_NET_RAW: run as root, or grant it")
        raise ConfigurationError([problem]) from None
    except OSError as error:
        problem = Problem("underlay.provider_addresses", f"no raw socket on {address}: {error.strerror}")
        raise ConfigurationError([problem]) from None
