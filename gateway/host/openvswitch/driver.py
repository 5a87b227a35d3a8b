"""Keeps an Open vSwitch bridge by a network and its records, and hears what VMs announce on it.

Whatever changes is gathered for a moment and becomes one bundle of flows. The bridge is looked at
again and again: ports come and go, and a switch that was started anew has lost its flows. What is
missing is said and waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from gateway.forwarding.directory import (
    Change,
    DeleteLease,
    Directory,
    Holder,
    Put,
    PutLease,
    changes_between,
    configured_directory,
)
from gateway.forwarding.drops import Drops
from gateway.forwarding.guests import ADVERTISE_EVERY
from gateway.forwarding.happenings import Happening, Heard, Listener
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import PortKey
from gateway.host.openvswitch.bridge import COOKIE, LISTENER, TUNNELS, Bridge, BridgeError
from gateway.host.openvswitch.flows import HEARD, Flows, difference, network_flows, vm_flows
from gateway.host.openvswitch.view import Attached, View, is_encapsulated
from gateway.host.ports import Ports
from gateway.operating.report import BridgeReport, MovesReport, Report
from gateway.sites.policies import Keyring
from gateway.sites.status import SiteStatus
from gateway.taps import Observer
from gateway.trace import Explanation, Question, explain_running
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Lease, LookupRecord, Port
from policies.tables import Tables

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


class OpenVswitchDriver:
    """A host's data path on Open vSwitch. `mtu` is the underlay's, in octets of the outer IP packet.

    The forwarder decides no packet here: it keeps what a host knows, and hears.
    """

    def __init__(
        self, appliance: Appliance, mtu: int, directory: Directory, bridge: Bridge | None = None
    ) -> None:
        """Raises ConfigurationError for an appliance that is not a host alone."""
        if appliance.host is None or appliance.gateway:
            raise ConfigurationError([Problem("host.driver", "openvswitch is for hosts that are no gateway")])
        self.forwarder = Forwarder(Node.of(appliance, mtu), Tables.compile(appliance.network), directory)
        self.forwarder.happenings.on_happening = self._happened
        settings = appliance.host.openvswitch
        self._bridge = bridge or Bridge(settings.bridge, settings.run_directory)
        self._ports = Ports(self.forwarder.drops)
        self._listener: Listener | None = None
        self._numbers: dict[str, int] = {}
        self._made: set[str] = set()
        self._trouble = ""
        # What is on the bridge: flows of the network, and of each VM; None: not known.
        self._network: Flows | None = None
        self._vms: dict[PortKey, Flows] = {}
        self._changed: set[PortKey] = set()
        self._is_all_changed = True
        self._due = trio.Event()
        self._bridge_is_ours = trio.Lock()
        self._open: set[PortKey] = set()
        self._served: set[Attached] = set()
        self._nursery: trio.Nursery | None = None

    async def start(self, nursery: trio.Nursery, _appliance: Appliance) -> None:
        """Keep the bridge in the nursery until that is cancelled. One that is not there is waited for."""
        self._nursery = nursery
        nursery.start_soon(self._look)
        nursery.start_soon(self._program)
        nursery.start_soon(self._expire)
        nursery.start_soon(self._hear)
        nursery.start_soon(self._advertise_routers)

    async def adopt(self, appliance: Appliance, _keyring: Keyring) -> tuple[Problem, ...]:
        """Decide by an appliance's network from now on. Return which ports' VMs are rewritten: none of those
        is served, and every other is the bridge's to have."""
        host = appliance.host
        ports = host.ports_in(appliance.network) if host is not None else ()
        self.configure(Tables.compile(appliance.network), {(port.vsid, port.mac): port for port in ports})
        if not appliance.takes_part:
            self.apply(changes_between(self.forwarder.directory, configured_directory(appliance)))
        return tuple(_unfit(port) for port in ports if not self._is_encapsulated(port))

    def configure(self, tables: Tables, ports: Mapping[PortKey, Port]) -> None:
        """Take over a network, and which VMs may be here."""
        self.forwarder.replace_tables(tables, ports)
        self._ports_changed()
        self._all_changed()

    def apply(self, changes: Sequence[Change]) -> None:
        """Take changes of records over; their flows follow within milliseconds."""
        directory = self.forwarder.directory
        for change in changes:
            if isinstance(change, PutLease | DeleteLease):
                directory.apply(change)  # no flow follows from it: gateways alone have leases
                continue
            vsid, ca = (
                (change.record.vsid, change.record.ca)
                if isinstance(change, Put)
                else (change.vsid, change.ca)
            )
            old = directory.find(vsid, ca)
            self.forwarder.moves.apply((change,), trio.current_time())
            for record in (old, directory.find(vsid, ca)):
                if record is not None:
                    self._changed.add((record.vsid, record.mac))
        if self._changed & self.forwarder.node.ports.keys():
            self._ports_changed()  # what its records say of a VM decides whether it is served
        self._due.set()

    def find(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Return a record as it is known here."""
        return self.forwarder.directory.find(vsid, ca)

    def holder(self, pa: bytes) -> Holder | None:
        """Return whose a provider address is that stands for one CA alone."""
        return self.forwarder.directory.holder(pa)

    def held(self) -> Mapping[tuple[int, str], int]:
        """How many records each host holds in each virtual subnet, by VSID and name."""
        return self.forwarder.directory.held()

    def in_use(self) -> Iterable[tuple[Vsid, CustomerAddress]]:
        """Return the records that have been used since this was last asked: flows do not say."""
        return ()

    def probe(self, port: PortKey, ca: CustomerAddress) -> None:
        """Ask the VM at a port whether it has an address, soon."""
        question = self.forwarder.probe(port, ca)
        attached = self._attached().get(port)
        if question is not None and attached is not None and self._nursery is not None:
            self._nursery.start_soon(self._send, attached.number, question.frame)

    def leases(self) -> Iterable[Lease]:
        """Return the provider addresses that stand for CAs which have none of their own, as known here."""
        return self.forwarder.directory.all_leases()

    def used_leases(self) -> Iterable[bytes]:
        """Return those that are used here: none, for nothing is rewritten on a bridge."""
        return ()

    def refuse(self, vsid: Vsid, ca: CustomerAddress) -> None:
        """Hear that no provider address can be had for a CA: nothing here waits for one."""

    def tell(self, listener: Listener) -> None:
        """Have someone told from now on what happens here."""
        self._listener = listener

    async def say_goodbye(self) -> None:
        """Take our flows off the bridge, and the ports that we made."""
        with trio.move_on_after(GOODBYE, shield=True), suppress(BridgeError):
            async with self._bridge_is_ours:
                self._is_all_changed = False
                await trio.to_thread.run_sync(self._bridge.remove_flows, abandon_on_cancel=True)
                await trio.to_thread.run_sync(self._bridge.remove_ports, self._made, abandon_on_cancel=True)

    @property
    def drops(self) -> Drops:
        return self.forwarder.drops

    def sites(self) -> list[SiteStatus]:
        """A host without a gateway has no sites' tunnels."""
        return []

    @property
    def in_words(self) -> str:
        """Where it is attached."""
        return f"(bridge {self._bridge.name}, MTU {self.forwarder.node.underlay_mtu}), Open vSwitch"

    def report(self) -> Report:
        """The counters. What the flows carry and drop, the switch counts."""
        moves = self.forwarder.moves
        return Report(
            node=self.forwarder.node.name,
            engine="openvswitch",
            records=len(self.forwarder.directory),
            moves=MovesReport(
                redirected_records=len(moves.redirects), ahead_of_their_records=len(moves.residence)
            ),
            bridge=BridgeReport(
                flows=len(self._network or ()) + sum(len(flows) for flows in self._vms.values()),
                ports=sorted(self._numbers),
                trouble=self._trouble,
            ),
        )

    def explain(self, question: Question) -> Explanation:
        """Tell what would happen to a packet now: the flows are made to do as this pipeline does."""
        return explain_running(self.forwarder, question, trio.current_time())

    def observe(self, observer: Observer | None) -> None:
        """The packets of a bridge don't come by here. Raises ConfigurationError."""
        if observer is not None:
            words = f"Open vSwitch carries this host's packets: ovs-tcpdump -i PORT on {self._bridge.name}"
            raise ConfigurationError([Problem("host.driver", words)])

    @property
    def tables(self) -> Tables:
        """What the flows are made of now."""
        return self.forwarder.tables

    # --- the bridge

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
                        self._all_changed()
            except BridgeError as error:
                self._lost(str(error))
                pause = RETRY
            await trio.sleep(pause)

    async def _look_at_ports(self) -> None:
        numbers = await _in_thread(self._bridge.port_numbers)
        if not self._own_ports() <= numbers.keys():
            own = self.forwarder.node.provider_addresses
            self._made |= await _in_thread(self._bridge.prepare, own)
        if numbers != self._numbers:
            self._numbers = numbers
            self._ports_changed()
            self._all_changed()

    async def _look_at_flows(self) -> None:
        if self._network is None or self._due.is_set():
            return
        expected = len(self._network) + sum(len(flows) for flows in self._vms.values())
        there = await _in_thread(self._bridge.count_flows)
        if there != expected:
            about = {"event": "bridge-repaired"}
            words = "%d of our %d flows are on %s: put there anew"
            log.warning(words, there, expected, self._bridge.name, extra=about)
            self._network = None
            self._all_changed()

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
                self._all_changed()

    async def _bring_up_to_date(self) -> None:
        view = self._view()
        if view is None:
            return
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
            await _in_thread(self._bridge.replace_flows, after)
            about = {"event": "bridge-ready"}
            words = "bridge %s: %d flows, %d ports"
            log.info(words, self._bridge.name, len(after), len(view.ports), extra=about)
            self._trouble = ""
        else:
            before = _union(self._network, (self._vms.get(key, {}) for key in changed))
            lines = difference(before, after, COOKIE)
            if lines:
                await _in_thread(self._bridge.change_flows, lines)
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

    def _view(self) -> View | None:
        """What flows follow from now; None while a port of ours is missing."""
        if not self._own_ports() <= self._numbers.keys():
            return None
        forwarder, now = self.forwarder, trio.current_time()
        redirects: dict[PortKey, ProviderAddress] = {}
        for vsid, ca in forwarder.moves.redirects:
            record = forwarder.directory.find(vsid, ca)
            if record is not None and forwarder.moves.redirects.sends_on(record, now):
                redirects[vsid, record.mac] = record.pa
        return View(
            provider_addresses=forwarder.node.provider_addresses,
            mtu=forwarder.node.underlay_mtu,
            tunnels={version: self._numbers[TUNNELS[version]] for version in self._versions()},
            listener=self._numbers[LISTENER],
            tables=forwarder.tables,
            directory=forwarder.directory,
            ports=self._attached(),
            residence=forwarder.moves.residence,
            redirects=redirects,
        )

    def _versions(self) -> set[int]:
        return {address.version for address in self.forwarder.node.provider_addresses}

    def _own_ports(self) -> set[str]:
        return {LISTENER, *(TUNNELS[version] for version in self._versions())}

    def _attached(self) -> dict[PortKey, Attached]:
        return {
            key: Attached(port, self._numbers[port.interface])
            for key, port in self.forwarder.node.ports.items()
            if port.interface in self._numbers and self._is_encapsulated(port)
        }

    def _is_encapsulated(self, port: Port) -> bool:
        return is_encapsulated(port, self.forwarder.tables, self.forwarder.directory)

    def _ports_changed(self) -> None:
        there = self._attached().keys()
        now = trio.current_time()
        for key in self._open - there:
            self.forwarder.moves.port_closed(key)
            if self._listener is not None:
                self._listener.port_closed(key)
        for key in there - self._open:
            self.forwarder.moves.port_opened(key, now)
            if self._listener is not None:
                self._listener.port_opened(key)
        self._open = set(there)

    def _all_changed(self) -> None:
        self._is_all_changed = True
        self._due.set()

    def _lost(self, why: str) -> None:
        """The bridge does not do what it is asked: say so once, and begin anew when it does."""
        if why != self._trouble:
            self._trouble = why
            about = {"event": "bridge-awaited"}
            log.warning("bridge %s is waited for: %s", self._bridge.name, why, extra=about)
        self._network = None

    async def _send(self, number: int, frame: bytes) -> None:
        try:
            await _in_thread(self._bridge.send, number, frame)
        except BridgeError as error:
            log.debug("a VM is not asked: %s", error)

    # --- what happens

    async def _expire(self) -> None:
        while True:
            await trio.sleep(1)
            before = len(self.forwarder.moves.redirects)
            self.forwarder.moves.expire(trio.current_time())
            if len(self.forwarder.moves.redirects) != before:
                self._due.set()

    async def _advertise_routers(self) -> None:
        while True:
            await trio.sleep(ADVERTISE_EVERY)
            for port, attached in self._attached().items():
                advertisement = self.forwarder.advertise_router(port, trio.current_time())
                if advertisement is not None:
                    await self._send(attached.number, advertisement.frame)

    async def _hear(self) -> None:
        nobody = Port(LISTENER, "", Vsid(0), MacAddress(bytes(6)), ())
        await self._ports.serve(nobody, self._heard, lambda *_: None)

    def _heard(self, _: PortKey, frame: bytes, now: float) -> None:
        """Take a frame that the flows copied to us, with its port's number in its destination."""
        number = int.from_bytes(frame[4:6])
        if frame[:4] != HEARD:
            return
        for key, attached in self._attached().items():
            if attached.number == number:
                self.forwarder.from_port(key, frame, now)

    def _happened(self, happening: Happening) -> None:
        if isinstance(happening, Heard):
            self._changed.add(happening.port)
            self._due.set()
        if self._listener is not None:
            self._listener.happened(happening)


async def _in_thread(function: Callable[..., T], *args: object) -> T:
    return await trio.to_thread.run_sync(partial(function, *args))


def _unfit(port: Port) -> Problem:
    words = f"a VM in {port.tenant} that is rewritten: Open vSwitch hosts only encapsulate"
    return Problem(f"host.port[{port.interface}]", words)


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
