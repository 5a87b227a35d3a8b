"""What a running appliance is told from without, by signals, and what its service manager hears of that."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import trio

from gateway.changes.reload import Reload
from gateway.datapath import DataPath
from gateway.operating import status
from gateway.process.service_manager import ServiceManager
from gateway.process.signals import Terminal
from gateway.process.stopping import HASTENED, WITHIN
from policies.model import Appliance

log = logging.getLogger("isthmus")

# Seconds that a stop waits for what is not confirmed to be undone in a store.
LEAVE_WITHIN = 1.5


class Orders:
    """Carries out what one appliance is told. Its traffic runs in `traffic`, whose end is the appliance's."""

    def __init__(
        self,
        appliance: Appliance,
        path: DataPath | None,
        traffic: trio.CancelScope,
        manager: ServiceManager,
        end_within: Callable[[float], None],
        print_report: Callable[[], None],
    ) -> None:
        self.print_report = print_report
        self.reload: Reload | None = None
        """There is none before the start is over."""
        self._appliance = appliance
        self._path = path
        self._traffic = traffic
        self._manager = manager
        self._end_within = end_within

    async def heed(self, received: AsyncIterator[int]) -> None:
        """Have each signal that is received carried out, for ever."""
        is_stopping = False
        terminal = Terminal()
        async with trio.open_nursery() as nursery:
            async for number in received:
                if number == signal.SIGUSR1:
                    self.print_report()
                elif number == signal.SIGHUP:
                    if terminal.has_just_closed():
                        log.warning(
                            "the terminal is closed, and nothing else changes: SIGTERM stops, SIGHUP reloads",
                            extra={"event": "terminal-closed"},
                        )
                    elif not is_stopping:
                        self.read_again()
                elif is_stopping:
                    log.info("stopping at once: %s", signal.Signals(number).name, extra={"event": "stopping"})
                    self.hasten()
                else:
                    is_stopping = True
                    log.info("stopping: %s", signal.Signals(number).name, extra={"event": "stopping"})
                    nursery.start_soon(self.stop)

    def read_again(self) -> None:
        """Read the configuration again, and take its changes over."""
        if self.reload is not None:
            self.reload.ask()

    async def stop(self) -> None:
        """Stop in order: undo what is not confirmed, tell the peers, and end what carries traffic."""
        self._manager.stopping("stopping")
        self._end_within(WITHIN)
        if self.reload is not None:
            with trio.move_on_after(LEAVE_WITHIN):
                await self.reload.leave()
        if self._path is not None:
            await self._path.say_goodbye()
        self._traffic.cancel()

    def hasten(self) -> None:
        """Stop at once, in the midst of stopping."""
        self._end_within(HASTENED)
        self._traffic.cancel()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell the service manager of a reload, for as long as the block lasts."""
        self._manager.reloading()
        try:
            yield
        finally:
            self._manager.ready(self.in_words())

    def in_words(self) -> str:
        """How the appliance is, for a line of `systemctl status`."""
        roles = " and ".join(status.roles(self._appliance))
        if self._path is None:
            return f"{self._appliance.name}: {roles}"
        sites = self._path.sites()
        up = sum(site.state == "up" for site in sites)
        dialled = f", {up} of {len(sites)} sites up" if sites else ""
        return f"{self._appliance.name}: {roles}, {self._path.report().records} records{dialled}"
