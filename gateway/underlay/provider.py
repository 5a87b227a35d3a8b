"""Carries rewritten packets between the underlay and whoever decides about them, on trio.

They are plain IP packets between provider addresses that are on no interface: so packet sockets hear them,
raw sockets send them, and we answer on the link for those that are held here.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import trio

from gateway.underlay.announcing import Announcements
from gateway.underlay.answering import (
    AnswersFor,
    Contested,
    Contests,
    ToNeighbour,
    announcement,
    answer_arp_untrusted,
    answer_solicitation_untrusted,
)
from gateway.underlay.claims import claimed
from gateway.underlay.hearing import Hearing
from gateway.underlay.interfaces import Attachment
from gateway.underlay.merged import split_packet_untrusted
from gateway.underlay.packet_sockets import InterfaceDown, PacketSocket, Sender
from gateway.underlay.silence import begin_silence, end_silence, keep_silence
from policies.addresses import Prefix
from policies.errors import ConfigurationError, MalformedPacket, Problem
from policies.tables import PrefixTable

_log = logging.getLogger("isthmus.underlay")

Receive = Callable[[bytes, float], object]
"""Takes an IP packet, perhaps with padding behind it, and the time."""

# Packets taken from a socket before other tasks get their turn.
BATCH = 64

LOOK_AGAIN = 1.0
"""Seconds between two looks for an interface that has gone."""

LOOK_AT_RULES = 10.0
"""Seconds between two looks whether the kernel is still kept from the pools: systemd-networkd takes rules
away that are not its own, whenever it starts."""

_Answer = Callable[[PacketSocket], ToNeighbour | None]


class Provider:
    """The way in and out for the provider addresses of our pools. It is open while `serve` runs."""

    def __init__(self) -> None:
        self.received = 0
        """Packets for an address of a pool."""
        self.merged = 0
        """Packets above the MTU: merged by GRO and cut again, or too large for us."""
        self.answered = 0
        """Requests and solicitations of neighbours."""
        self.malformed = 0
        """Those that break the format."""
        self.contested = 0
        """Announcements of others that they have an address that is held here, and stays so."""
        self.announced = 0
        """Announcements of ours, one for each interface."""
        self.pools: tuple[Prefix, ...] = ()
        self._within = PrefixTable[bool](())
        self._claims: dict[Prefix, ExitStack] = {}
        self._hearings: dict[str, Hearing] = {}
        self._attachment = Attachment((), 0)
        self._sender: Sender | None = None
        self._receive: Receive
        self._answers_for: AnswersFor
        self._announcements = Announcements(self._announce)
        self._nursery: trio.Nursery | None = None
        self._contests = Contests()
        self._changing = trio.Lock()

    @property
    def kernel_drops(self) -> int:
        """Packets and requests that came while a socket's buffer was full."""
        return sum(each.kernel_drops for each in self._hearings.values())

    @property
    def not_announced(self) -> int:
        """Addresses that came here while too many were waiting to be announced."""
        return self._announcements.left_out

    def send(self, packet: bytes, via: bytes | None = None) -> None:
        """Send a whole IP packet now, or raise OSError: EMSGSIZE where it is too large for the interface.

        It goes to `via`, if given, as if that were the next router on the way.
        """
        if self._sender is None:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        self._sender.send(packet, via)

    def announce(self, pa: bytes) -> None:
        """Have the neighbours know soon that a provider address is here now, if it still is by then."""
        self._announcements.add(pa)

    async def serve(
        self,
        pools: Sequence[Prefix],
        attachment: Attachment,
        receive: Receive,
        answers_for: AnswersFor,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give every packet for a pool's address to `receive`; started once all sockets are open.

        `answers_for` says whether a provider address is held here: neighbours who ask for it are answered.
        Raises ConfigurationError where a socket cannot be opened, an address of this machine lies in a
        pool, another process serves a pool, or the kernel cannot be kept from it.
        """
        self._attachment, self._receive, self._answers_for = attachment, receive, answers_for
        with ExitStack() as stack:
            self._sender = stack.enter_context(closing(_open_sender()))
            stack.callback(self._have_no_sender)
            try:
                await self._take_over(tuple(pools))
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    for each in self._hearings.values():
                        nursery.start_soon(self._serve_interface, each)
                    nursery.start_soon(self._announcements.run)
                    nursery.start_soon(self._keep_silence)
                    task_status.started()
            finally:
                self._nursery = None
                while self._hearings:
                    self._hearings.popitem()[1].close()
                await self._release(list(self._claims))

    async def replace_pools(self, pools: Sequence[Prefix]) -> None:
        """Serve other pools from now on, or change nothing and raise ConfigurationError as `serve` does."""
        nursery = self._nursery
        if nursery is None:
            raise RuntimeError("pools are replaced while they are served")
        async with self._changing:
            for each in await self._take_over(tuple(pools)):
                nursery.start_soon(self._serve_interface, each)

    async def _take_over(self, pools: tuple[Prefix, ...]) -> list[Hearing]:
        """Serve these pools, and no others. Return what is to be heard for the first time."""
        added = [pool for pool in dict.fromkeys(pools) if pool not in self._claims]
        opened: dict[str, Hearing] = {}
        try:
            for pool in added:
                stack = ExitStack()
                stack.enter_context(claimed("pool", str(pool), "pools"))
                self._claims[pool] = stack
            if pools:
                await trio.to_thread.run_sync(begin_silence, self._attachment.interfaces, pools)
            if pools and not self._hearings:
                for interface in self._attachment.interfaces:
                    opened[interface] = _open_hearing(interface)
        except BaseException:
            for each in opened.values():
                each.close()
            await self._release(added)
            raise
        self.pools, self._within = pools, PrefixTable((pool, True) for pool in pools)
        self._hearings |= opened
        for each in self._hearings.values():
            each.listen_to(pools)
        await self._release([pool for pool in self._claims if pool not in pools])
        return list(opened.values())

    async def _release(self, pools: Sequence[Prefix]) -> None:
        """Leave pools to the kernel, and to other processes."""
        ours = [pool for pool in pools if pool in self._claims]
        if ours:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(end_silence, self._attachment.interfaces, ours)
        for pool in ours:
            self._claims.pop(pool).close()

    async def _keep_silence(self) -> None:
        """Put rules back that somebody has taken away."""
        trouble = ""
        while True:
            await trio.sleep(LOOK_AT_RULES)
            async with self._changing:
                if self.pools:
                    trouble = await trio.to_thread.run_sync(
                        keep_silence, self._attachment.interfaces, self.pools, trouble
                    )

    def _have_no_sender(self) -> None:
        self._sender = None

    async def _serve_interface(self, hearing: Hearing) -> None:
        """Receive for as long as an interface is there, and again when it is back."""
        about = {"event": "underlay-interface", "interface": hearing.interface}
        while True:
            async with trio.open_nursery() as nursery:
                for each in hearing.packets:
                    nursery.start_soon(self._until_gone, each, self._receive_batch, nursery.cancel_scope)
                for answered, answer in (
                    (hearing.arp, self._arp),
                    (hearing.solicitations, self._solicitation),
                ):
                    if answered is not None:
                        nursery.start_soon(
                            self._until_gone, answered, self._answer_batch(answer), nursery.cancel_scope
                        )
            hearing.close()
            _log.warning("%s is gone, and is waited for", hearing.interface, extra=about)
            while not hearing.packets:
                await trio.sleep(LOOK_AGAIN)
                try:
                    hearing.open()
                except OSError:
                    continue
            _log.info("%s is there again", hearing.interface, extra=about)

    async def _until_gone(
        self,
        source: PacketSocket,
        batch: Callable[[PacketSocket, float], bool],
        everything: trio.CancelScope,
    ) -> None:
        while True:
            await trio.lowlevel.wait_readable(source.fileno())
            try:
                while batch(source, trio.current_time()):
                    await trio.lowlevel.checkpoint()
            except InterfaceDown:
                if source.is_gone:
                    everything.cancel()
                await trio.lowlevel.checkpoint()

    def _receive_batch(self, source: PacketSocket, now: float) -> bool:
        """Take what waits, and say whether more may. Raises InterfaceDown."""
        within, largest = self._within.lookup, self._attachment.mtu
        # Of packets as they were on the wire: a merged one is some forty of them.
        taken = 0
        while taken < BATCH:
            try:
                packet = source.receive()
            except BlockingIOError:
                return False
            taken += 1
            # It may have waited here since before the pools were replaced.
            if not within(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]):
                continue
            self.received += 1
            if len(packet) <= largest:
                self._receive(packet, now)
                continue
            self.merged += 1
            pieces = split_packet_untrusted(packet, largest)
            for each in pieces:
                self._receive(each, now)
            taken += len(pieces) - 1
        return True

    def _answer_batch(self, answer: _Answer) -> Callable[[PacketSocket, float], bool]:
        def batch(source: PacketSocket, now: float) -> bool:
            for _ in range(BATCH):
                try:
                    found = answer(source)
                except BlockingIOError:
                    return False
                except MalformedPacket:
                    self.malformed += 1
                except Contested as contest:
                    self.contested += self._contests.is_lasting(contest.pa, now)
                else:
                    if found is not None:
                        self.answered += _sent(source, found)
            return True

        return batch

    def _arp(self, source: PacketSocket) -> ToNeighbour | None:
        return answer_arp_untrusted(source.receive(), source.mac, self._answers_for)

    def _solicitation(self, source: PacketSocket) -> ToNeighbour | None:
        packet, sender = source.receive_from()
        return answer_solicitation_untrusted(packet, sender, source.mac, self._answers_for)

    def _announce(self, pa: bytes) -> None:
        """Say on every link that an address is here."""
        if not self._answers_for(pa):
            return
        for each in self._hearings.values():
            source = each.arp if len(pa) == 4 else each.solicitations
            if source is None:
                continue
            self.announced += _sent(source, announcement(pa, source.mac))


def _sent(source: PacketSocket, said: ToNeighbour) -> bool:
    """Whether something could be said; who has not heard it asks again."""
    try:
        source.send(said.packet, said.mac)
    except OSError as error:
        _log.debug("nothing can be said at %s: %s", source.interface, error.strerror)
        return False
    return True


def _open_sender() -> Sender:
    try:
        return Sender()
    except PermissionError:
        raise _not_permitted() from None


def _open_hearing(interface: str) -> Hearing:
    try:
        return Hearing(interface, ())
    except PermissionError:
        raise _not_permitted() from None
    except OSError as error:
        problem = Problem("underlay.interfaces", f"nothing can be heard at {interface}: {error.strerror}")
        raise ConfigurationError([problem]) from None


def _not_permitted() -> ConfigurationError:
    message = "packet and raw sockets need root or CAP_NET_RAW: run as root, or grant it"
    return ConfigurationError([Problem("underlay", message)])
