"""Keeps a bridge's ports and flows as they follow from what its host knows.

Whatever changes is gathered for a moment and becomes one bundle of flows. The bridge is looked at
again and again: ports come and go, and a switch that was started anew has lost its flows. What is
missing is said and waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from gateway.forwarding.verdicts import PortKey
from gateway.host.openvswitch.bridge import COOKIE, LISTENER, TUNNELS, Bridge, BridgeError
from gateway.host.openvswitch.flows import network_flows, vm_flows
from gateway.host.openvswitch.openflow import Flows, difference
from gateway.host.openvswitch.view import Attached, View
from policies.addresses import ProviderAddress
from policies.model import Port

log = logging.getLogger("isthmus.openvswitch")

# Seconds that changes are gathered for.
GATHER = 0.01
# Seconds between two looks at the bridge's ports, and at the number of flows that it has.
LOOK = 0.1
COUNT = 1.0
# Seconds after which something that failed is tried again.
RETRY = 0.5
# Seconds that the bridge may take when we go: a switch that hangs must not keep us.
GOODBYE = 2.0
# Records turned into flows before packets of the agent's own get their turn.
AT_ONCE = 256

T = TypeVar("T")


class Upkeep:
    """A bridge whose flows are those of a view, asked for anew whenever something has changed.

    `view` is asked only while the bridge has every port of ours; `ports_changed` is called when `numbers` are
    others.
    """

    def __init__(
        self,
        bridge: Bridge,
        provider_addresses: Sequence[ProviderAddress],
        view: Callable[[], View],
        ports_changed: Callable[[], None],
    ) -> None:
        self.bridge = bridge
        self.numbers: dict[str, int] = {}
        """The OpenFlow numbers of the bridge's ports, by interface."""
        self.trouble = ""
        """Why the bridge is waited for, in a sentence."""
        self._provider_addresses = provider_addresses
        self._versions = {address.version for address in provider_addresses}
        self._own_ports = {LISTENER, *(TUNNELS[version] for version in self._versions)}
        self._view = view
        self._ports_changed = ports_changed
        self._made: set[str] = set()
        # What is on the bridge: flows of the network, and of each VM; None: not known.
        self._network: Flows | None = None
        self._vms: dict[PortKey, Flows] = {}
        self._changed: set[PortKey] = set()
        self._is_all_changed = True
        self._due = trio.Event()
        self._bridge_is_ours = trio.Lock()
        self._served: set[Attached] = set()

    @property
    def listener(self) -> int:
        """The number of the port that the agent listens on."""
        return self.numbers[LISTENER]

    @property
    def tunnels(self) -> dict[int, int]:
        """The numbers of the GRE ports, by the underlay's IP version."""
        return {version: self.numbers[TUNNELS[version]] for version in self._versions}

    @property
    def flows(self) -> int:
        """How many flows of ours are on the bridge."""
        return len(self._network or ()) + sum(len(flows) for flows in self._vms.values())

    def start(self, nursery: trio.Nursery) -> None:
        """Keep the bridge in the nursery until that is cancelled. One that is not there is waited for."""
        nursery.start_soon(self._look)
        nursery.start_soon(self._program)

    def vms_changed(self, vms: Iterable[PortKey]) -> None:
        """Have the flows of some VMs made anew, and the network's: within milliseconds."""
        self._changed.update(vms)
        self._due.set()

    def all_changed(self) -> None:
        """Have all flows made anew."""
        self._is_all_changed = True
        self._due.set()

    async def send(self, number: int, frame: bytes) -> None:
        """Send a frame out of a port, if the bridge does."""
        try:
            await _in_thread(self.bridge.send, number, frame)
        except BridgeError as error:
            log.debug("a VM is not asked: %s", error)

    async def leave(self) -> None:
        """Take our flows off the bridge, and the ports that we made."""
        with trio.move_on_after(GOODBYE, shield=True), suppress(BridgeError):
            async with self._bridge_is_ours:
                self._is_all_changed = False
                await trio.to_thread.run_sync(self.bridge.remove_flows, abandon_on_cancel=True)
                await trio.to_thread.run_sync(self.bridge.remove_ports, self._made, abandon_on_cancel=True)

    async def _look(self) -> None:
        """Find out which ports the bridge has, make ours, and notice flows that have gone."""
        counted = trio.current_time()
        while True:
            pause = LOOK
            try:
                async with self._bridge_is_ours:
                    await self._look_at_ports()
                    if trio.current_time() - counted >= COUNT:
                        counted = trio.current_time()
                        await self._look_at_flows()
                    if self._network is None:
                        self.all_changed()
            except BridgeError as error:
                self._lost(str(error))
                pause = RETRY
            await trio.sleep(pause)

    async def _look_at_ports(self) -> None:
        numbers = await _in_thread(self.bridge.port_numbers)
        if not self._own_ports <= numbers.keys():
            self._made |= await _in_thread(self.bridge.prepare, self._provider_addresses)
        if numbers != self.numbers:
            self.numbers = numbers
            self._ports_changed()
            self.all_changed()

    async def _look_at_flows(self) -> None:
        if self._network is None or self._due.is_set():
            return
        there = await _in_thread(self.bridge.count_flows)
        if there != self.flows:
            about = {"event": "bridge-repaired"}
            words = "%d of our %d flows are on %s: put there anew"
            log.warning(words, there, self.flows, self.bridge.name, extra=about)
            self._network = None
            self.all_changed()

    async def _program(self) -> None:
        """Bring the flows up to date whenever something has changed."""
        while True:
            await self._due.wait()
            await trio.sleep(GATHER)
            self._due = trio.Event()
            try:
                async with self._bridge_is_ours:
                    await self._bring_up_to_date()
            except BridgeError as error:
                self._lost(str(error))
                await trio.sleep(RETRY)
                self.all_changed()

    async def _bring_up_to_date(self) -> None:
        if not self._own_ports <= self.numbers.keys():
            return
        view = self._view()
        is_all = self._is_all_changed or self._network is None
        changed, self._changed, self._is_all_changed = self._changed, set(), False
        if is_all:
            served = {entry.vsid for entry in view.subnets}
            changed = {(record.vsid, record.mac) for record in view.directory if record.vsid in served}
            changed |= self._vms.keys()
        network = network_flows(view)
        vms: dict[PortKey, Flows] = {}
        for count, (vsid, mac) in enumerate(changed):
            vms[vsid, mac] = vm_flows(view, vsid, mac)
            if count % AT_ONCE == AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        after = _union(network, vms.values())
        if self._network is None:
            await _in_thread(self.bridge.replace_flows, after)
            about = {"event": "bridge-ready"}
            words = "bridge %s: %d flows, %d ports"
            log.info(words, self.bridge.name, len(after), len(view.ports), extra=about)
            self.trouble = ""
        else:
            before = _union(self._network, (self._vms.get(key, {}) for key in changed))
            lines = difference(before, after, COOKIE)
            if lines:
                await _in_thread(self.bridge.change_flows, lines)
        self._say_which_ports(set(view.ports.values()))
        self._network = network
        self._vms.update(vms)
        for key in changed:
            if not self._vms[key]:
                del self._vms[key]

    def _say_which_ports(self, served: set[Attached]) -> None:
        """Say which ports have come, now that their flows are there, and which have gone."""
        for attached in served - self._served:
            _say(attached.port, "port-opened", "is open")
        for attached in self._served - served:
            _say(attached.port, "port-closed", "is gone")
        self._served = served

    def _lost(self, why: str) -> None:
        """The bridge does not do what it is asked: say so once, and begin anew when it does."""
        if why != self.trouble:
            self.trouble = why
            about = {"event": "bridge-awaited"}
            log.warning("bridge %s is waited for: %s", self.bridge.name, why, extra=about)
        self._network = None


async def _in_thread(function: Callable[..., T], *args: object) -> T:
    return await trio.to_thread.run_sync(partial(function, *args))


def _say(port: Port, event: str, what: str) -> None:
    about = {
        "event": event,
        "tenant": port.tenant,
        "vsid": port.vsid,
        "mac": port.mac,
        "interface": port.interface,
    }
    log.info("port %s %s", port.interface, what, extra=about)


def _union(network: Flows, vms: Iterable[Flows]) -> Flows:
    together = dict(network)
    for flows in vms:
        together.update(flows)
    return together
