"""Brings messages and time to the key exchange, on trio, and carries out what it asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import trio

from tunnels.effects import Effect, Path, SiteKey
from tunnels.ike.endpoint import IkeEndpoint, TrafficOf
from tunnels.ike.policy import PeerPolicy

# How long peers get to answer when all sessions end, in seconds.
GOODBYE = 2.0


class SystemEntropy:
    """Randomness from the operating system."""

    def octets(self, count: int) -> bytes:
        """Fresh octets that nobody can foresee."""
        return os.urandom(count)

    def fraction(self) -> float:
        """A number of at least 0 and below 1."""
        return int.from_bytes(os.urandom(4)) / (1 << 32)


class IkeService:
    """The endpoint with a clock. Effects are carried out at once, in order."""

    def __init__(self, traffic_of: TrafficOf, carry_out: Callable[[Effect], None]) -> None:
        self.endpoint = IkeEndpoint(SystemEntropy(), traffic_of)
        self._carry_out = carry_out
        self._nap = trio.CancelScope()
        self._ended = trio.Event()
        self._is_leaving = False

    def receive_untrusted(self, path: Path, message: bytes) -> None:
        """Take an IKE message, without a Non-ESP Marker, from anyone."""
        effects = self.endpoint.handle_datagram_untrusted(
            path, message, trio.current_time(), datetime.now(UTC)
        )
        self._perform(effects)

    def configure(self, policies: Iterable[PeerPolicy]) -> None:
        """Take these sites, and only these."""
        self._perform(self.endpoint.configure(policies, trio.current_time()))

    def wanted(self, site: SiteKey) -> None:
        """A packet wants to go to a site that has no tunnel."""
        self._perform(self.endpoint.wanted(site, trio.current_time()))

    def expiring(self, site: SiteKey, inbound_spi: int) -> None:
        """A child SA has carried so much that it is to be replaced."""
        self._perform(self.endpoint.expiring(site, inbound_spi, trio.current_time()))

    def moved(self, site: SiteKey, inbound_spi: int, path: Path) -> None:
        """Authentic packets of a child SA come from another place."""
        self._perform(self.endpoint.moved(site, inbound_spi, path, trio.current_time()))

    async def run(self) -> None:
        """Wake the endpoint whenever it wants to be, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self.endpoint.deadline) as self._nap:
                await trio.sleep_forever()
            self._perform(self.endpoint.handle_timeout(trio.current_time()))

    async def say_goodbye(self) -> None:
        """End every session at its peer too; those that don't answer in time are forgotten."""
        self._is_leaving = True
        self._perform(self.endpoint.close(trio.current_time()))
        with trio.move_on_after(GOODBYE):
            await self._ended.wait()

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)
        self._nap.deadline = self.endpoint.deadline
        if self._is_leaving and self.endpoint.is_closed:
            self._ended.set()
