"""A host's data path on an Open vSwitch bridge: what it knows, and what its VMs announce.

What the bridge does follows from that, by the flows of `upkeep`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

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
from gateway.host.openvswitch.bridge import LISTENER, Bridge
from gateway.host.openvswitch.openflow import HEARD
from gateway.host.openvswitch.upkeep import Upkeep
from gateway.host.openvswitch.view import Attached, View, is_encapsulated
from gateway.host.ports import Ports
from gateway.operating.report import BridgeReport, MovesReport, Report
from gateway.sites.policies import Keyring
from gateway.sites.status import SiteStatus
from gateway.taps import Observer
from gateway.trace.explaining import Explanation, explain_running
from gateway.trace.packets import Question
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, LookupRecord, Port
from policies.tables import Tables


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
        self._upkeep = Upkeep(
            bridge or Bridge(settings.bridge, settings.run_directory),
            self.forwarder.node.provider_addresses,
            self._view,
            self._ports_changed,
        )
        self._ports = Ports(self.forwarder.drops)
        self._listener: Listener | None = None
        self._open: set[PortKey] = set()
        self._nursery: trio.Nursery | None = None

    async def start(self, nursery: trio.Nursery, _appliance: Appliance) -> None:
        """Keep the bridge in the nursery until that is cancelled. One that is not there is waited for."""
        self._nursery = nursery
        self._upkeep.start(nursery)
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
        self._upkeep.all_changed()

    def apply(self, changes: Sequence[Change]) -> None:
        """Take changes of records over; their flows follow within milliseconds."""
        directory = self.forwarder.directory
        moved: set[PortKey] = set()
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
                    moved.add((record.vsid, record.mac))
        if moved & self.forwarder.node.ports.keys():
            self._ports_changed()  # what its records say of a VM decides whether it is served
        self._upkeep.vms_changed(moved)

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
            self._nursery.start_soon(self._upkeep.send, attached.number, question.frame)

    def used_leases(self) -> Iterable[bytes]:
        """Return the leased addresses that are used here: none, for nothing is rewritten on a bridge."""
        return ()

    def refuse(self, vsid: Vsid, ca: CustomerAddress) -> None:
        """Hear that no provider address can be had for a CA: nothing here waits for one."""

    def tell(self, listener: Listener) -> None:
        """Have someone told from now on what happens here."""
        self._listener = listener

    async def say_goodbye(self) -> None:
        """Take our flows off the bridge, and the ports that we made."""
        await self._upkeep.leave()

    @property
    def drops(self) -> Drops:
        return self.forwarder.drops

    def sites(self) -> list[SiteStatus]:
        """A host without a gateway has no sites' tunnels."""
        return []

    @property
    def in_words(self) -> str:
        """Where it is attached."""
        return f"(bridge {self._upkeep.bridge.name}, MTU {self.forwarder.node.underlay_mtu}), Open vSwitch"

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
                flows=self._upkeep.flows,
                ports=sorted(self._upkeep.numbers),
                trouble=self._upkeep.trouble,
            ),
        )

    def explain(self, question: Question) -> Explanation:
        """Tell what would happen to a packet now: the flows are made to do as this pipeline does."""
        return explain_running(self.forwarder, question, trio.current_time())

    def observe(self, observer: Observer | None, tenants: Collection[str] | None = ()) -> None:  # noqa: ARG002
        """The packets of a bridge don't come by here. Raises ConfigurationError."""
        if observer is not None:
            bridge = self._upkeep.bridge.name
            words = f"Open vSwitch carries this host's packets: ovs-tcpdump -i PORT on {bridge}"
            raise ConfigurationError([Problem("host.driver", words)])

    @property
    def tables(self) -> Tables:
        """What the flows are made of now."""
        return self.forwarder.tables

    def _view(self) -> View:
        """What flows follow from now."""
        forwarder, now = self.forwarder, trio.current_time()
        redirects: dict[PortKey, ProviderAddress] = {}
        for vsid, ca in forwarder.moves.redirects:
            record = forwarder.directory.find(vsid, ca)
            if record is not None and forwarder.moves.redirects.sends_on(record, now):
                redirects[vsid, record.mac] = record.pa
        return View(
            provider_addresses=forwarder.node.provider_addresses,
            mtu=forwarder.node.underlay_mtu,
            tunnels=self._upkeep.tunnels,
            listener=self._upkeep.listener,
            tables=forwarder.tables,
            directory=forwarder.directory,
            ports=self._attached(),
            residence=forwarder.moves.residence,
            redirects=redirects,
        )

    def _attached(self) -> dict[PortKey, Attached]:
        numbers = self._upkeep.numbers
        return {
            key: Attached(port, numbers[port.interface])
            for key, port in self.forwarder.node.ports.items()
            if port.interface in numbers and self._is_encapsulated(port)
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

    async def _expire(self) -> None:
        while True:
            await trio.sleep(1)
            before = len(self.forwarder.moves.redirects)
            self.forwarder.moves.expire(trio.current_time())
            if len(self.forwarder.moves.redirects) != before:
                self._upkeep.vms_changed(())

    async def _advertise_routers(self) -> None:
        while True:
            await trio.sleep(ADVERTISE_EVERY)
            for port, attached in self._attached().items():
                advertisement = self.forwarder.advertise_router(port, trio.current_time())
                if advertisement is not None:
                    await self._upkeep.send(attached.number, advertisement.frame)

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
            self._upkeep.vms_changed((happening.port,))
        if self._listener is not None:
            self._listener.happened(happening)


def _unfit(port: Port) -> Problem:
    words = f"a VM in {port.tenant} that is rewritten: Open vSwitch hosts only encapsulate"
    return Problem(f"host.port[{port.interface}]", words)
