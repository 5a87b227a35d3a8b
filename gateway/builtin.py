"""The builtin data path: one forwarder, and the sockets, VM ports and tunnels around it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple, TypeGuard

import msgspec
import trio

from gateway.emissions import Emitter
from gateway.fastpath.engine import FastPath
from gateway.forwarding.directory import Change, Directory, Holder, Put, changes_between, configured_directory
from gateway.forwarding.drops import Drops
from gateway.forwarding.guests import ADVERTISE_EVERY
from gateway.forwarding.happenings import Listener
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import OuterHeader, PortKey, ToPort
from gateway.host.ports import Ports
from gateway.host.uses import WatchedDirectory
from gateway.operating.report import Report
from gateway.report import report
from gateway.sites.ledger import Turn
from gateway.sites.policies import Keyring, peer_policies, readable_policies
from gateway.sites.status import SiteStatus
from gateway.sites.tunnels import SiteTunnels
from gateway.taps import Deciding, Observed, Observer
from gateway.trace.explaining import Explanation, explain_running
from gateway.trace.packets import Question
from gateway.underlay.interfaces import Attachment, check_ports, mtus_of, read_links
from gateway.underlay.provider import Provider
from gateway.underlay.service import Underlay
from policies.addresses import CustomerAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, LookupRecord, Port, Translation
from policies.tables import Tables
from tunnels.effects import SiteKey
from tunnels.ike.policy import PeerPolicy

log = logging.getLogger("isthmus")

# Seconds between two looks at what time alone ends: frames that are held, redirects.
EXPIRE_EVERY = 0.1


class _Service(NamedTuple):
    """A port being served."""

    scope: trio.CancelScope
    ended: trio.Event


class Builtin:
    """Carries packets by itself. It decides by a network that it adopts, and by records that it is told."""

    def __init__(
        self,
        appliance: Appliance,
        attachment: Attachment,
        directory: Directory,
        past: Mapping[SiteKey, Sequence[Turn]] | None = None,
        fastpath: FastPath | None = None,
        engine_reason: str = "",
    ) -> None:
        """`past` is what happened to the sites before a restart.

        `engine_reason` says why there is no fast path, where one was tried.
        """
        self._attachment = attachment
        self._fastpath = fastpath
        self._engine_reason = engine_reason
        self.forwarder = Forwarder(
            Node.of(appliance, attachment.mtu), Tables.compile(appliance.network), directory
        )
        self._decide: Deciding = self.forwarder
        self.underlay = Underlay()
        self.ports = Ports(self.forwarder.drops)
        self.tunnels = SiteTunnels(self.forwarder, past)
        self.provider = Provider()
        self._emitter = Emitter(
            self.forwarder.drops,
            self.underlay.send,
            self.ports.send,
            self.tunnels.send,
            lambda rewritten: self.provider.send(rewritten.packet, rewritten.via),
            self._hold,
        )
        self._listener: Listener | None = None
        self._served: dict[Port, _Service] = {}
        self._policies: tuple[PeerPolicy, ...] = ()
        self._nursery: trio.Nursery | None = None
        self._serves_pools = False

    async def start(self, nursery: trio.Nursery, appliance: Appliance) -> None:
        """Open the underlay's sockets, and carry packets in the nursery until that is cancelled.

        Raises ConfigurationError where a socket cannot be opened.
        """
        self._nursery = nursery
        settings = appliance.underlay
        await nursery.start(
            self.underlay.serve,
            settings.provider_addresses if settings is not None else (),
            self._attachment,
            self._from_underlay,
            self.forwarder.may_admit,
            self._path_mtu_reported,
        )
        if self._fastpath is not None:
            await nursery.start(self._fastpath.serve, self.forwarder)
            self.forwarder.shares.debit = self._fastpath.debit
        nursery.start_soon(self.ports.watch)
        nursery.start_soon(self._expire)
        nursery.start_soon(self._advertise_routers)

    async def adopt(self, appliance: Appliance, keyring: Keyring) -> tuple[Problem, ...]:
        """Decide by an appliance's network from now on, serve its ports and dial its sites.

        Return why some of the ports are not served; the next adoption tries them again. So it is
        with sites whose files are wrong, where the network comes from the lookup service: one tenant's
        must not keep the others from theirs. If it raises ConfigurationError, for what is wrong
        with the files of a network of one's own or with a port's interface, it changes nothing.
        """
        policies, unreadable = await trio.to_thread.run_sync(self._read_policies, appliance, keyring)
        await trio.to_thread.run_sync(self._check_ports, appliance)
        tables, changes = await trio.to_thread.run_sync(self._compile, appliance)
        nursery = self._nursery
        if nursery is None:
            raise RuntimeError("a data path adopts a network only once it is started")
        if policies and not self.tunnels.is_serving:
            links = await trio.to_thread.run_sync(read_links)
            mtus = mtus_of(appliance.site_addresses, links, self._attachment)
            await self.tunnels.start(nursery, mtus, self._emitter.carry_out)
        refused = [*unreadable, *await self._serve_pools(nursery, appliance)]
        ports = appliance.host.ports_in(appliance.network) if appliance.host is not None else ()
        keyed = {(port.vsid, port.mac): port for port in ports}
        async with AsyncExitStack() as stack:
            if self._fastpath is not None:
                node = msgspec.structs.replace(self.forwarder.node, ports=dict(keyed))
                await stack.enter_async_context(self._fastpath.change(tables, node))
            # No packet comes in between: it would be decided by the one and the other.
            self.forwarder.replace_tables(tables, keyed)
            self.apply(changes)
        leaving = [self._served.pop(gone) for gone in self._served.keys() - set(ports)]
        for service in leaving:
            service.scope.cancel()
        for service in leaving:
            # Its interface may be that of a port to come, in another virtual subnet.
            await service.ended.wait()
        for port in ports:
            if port not in self._served:
                service = _Service(trio.CancelScope(), trio.Event())
                try:
                    await nursery.start(self._serve_port, port, service)
                except ConfigurationError as error:
                    # Of this port alone: the others, and the sites, are of no less worth.
                    refused += error.problems
                else:
                    self._served[port] = service
        self.tunnels.configure(appliance, policies)
        self._policies = policies
        return tuple(refused)

    def apply(self, changes: Sequence[Change]) -> None:
        """Take changes of records over, and send on what was waiting for them."""
        arriving = [change.record.pa for change in changes if self._comes_here(change)]
        for emission in self.forwarder.apply(changes, trio.current_time()):
            self._emitter.send(emission)
        for pa in arriving:
            self.provider.announce(pa)

    def find(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Return a record as it is known here."""
        return self.forwarder.directory.find(vsid, ca)

    def holder(self, pa: bytes) -> Holder | None:
        """Return whose a provider address is that stands for one CA alone, or was a moment ago."""
        return self.forwarder.translations.holder(pa, trio.current_time())

    def held(self) -> Mapping[tuple[int, str], int]:
        """How many records each host holds in each virtual subnet, by VSID and name."""
        return self.forwarder.directory.held()

    def in_use(self) -> Iterable[tuple[Vsid, CustomerAddress]]:
        """Return the records that have been used since this was last asked."""
        directory = self.forwarder.directory
        return directory.take_read() if isinstance(directory, WatchedDirectory) else ()

    def probe(self, port: PortKey, ca: CustomerAddress) -> None:
        """Ask the VM at a port whether it has an address."""
        question = self.forwarder.probe(port, ca)
        if question is not None:
            self._emitter.send(question)

    def used_leases(self) -> Iterable[bytes]:
        """Return the leased addresses that packets have used here since this was last asked."""
        return self.forwarder.take_used_leases()

    def refuse(self, vsid: Vsid, ca: CustomerAddress) -> None:
        """Hear that no provider address can be had for a CA now: what waits for it is let go."""
        for emission in self.forwarder.refuse(vsid, ca, trio.current_time()):
            self._emitter.send(emission)

    def tell(self, listener: Listener) -> None:
        """Have someone told from now on what happens here."""
        self._listener = listener
        self.forwarder.happenings.on_happening = listener.happened
        if self._fastpath is not None:
            self._fastpath.teach()

    async def say_goodbye(self) -> None:
        """Tell the sites' peers that we go."""
        await self.tunnels.say_goodbye()

    @property
    def drops(self) -> Drops:
        if self._fastpath is not None:
            self._fastpath.count()
        return self.forwarder.drops

    def sites(self) -> list[SiteStatus]:
        """How each site is whose tunnel is here."""
        return self.tunnels.statuses()

    @property
    def in_words(self) -> str:
        """Where it is attached."""
        attachment = self._attachment
        pools = ", ".join(map(str, self.provider.pools))
        rewriting = f", rewriting {pools}" if pools else ""
        engine = "python" if self._fastpath is None else f"xdp {self._fastpath.in_words}"
        return f"({', '.join(attachment.interfaces)}, MTU {attachment.mtu}), engine {engine}{rewriting}"

    def report(self) -> Report:
        """The counters."""
        fast = None
        if self._fastpath is not None:
            self._fastpath.count()
            fast = self._fastpath.status().report()
        return report(
            self.forwarder, self.underlay, self.provider, self.ports, self.tunnels, fast, self._engine_reason
        )

    def explain(self, question: Question) -> Explanation:
        """Tell what would happen to a packet now, and change nothing. Raises ConfigurationError."""
        return explain_running(self.forwarder, question, trio.current_time())

    def observe(self, observer: Observer | None, tenants: Collection[str] | None = ()) -> None:
        """Show someone each packet from now on, or nobody. Of these tenants, the fast path carries none."""
        if self._fastpath is not None:
            self._fastpath.observe(tenants)
        self._decide = self.forwarder
        if observer is not None:
            self._decide = Observed(self.forwarder, self._port, observer)
        self._emitter.observe(observer, self._port)
        self.tunnels.observe(observer, self._decide)

    @property
    def tables(self) -> Tables:
        """What is decided by now."""
        return self.forwarder.tables

    def _port(self, key: PortKey) -> Port | None:
        return self.forwarder.node.ports.get(key)

    def _from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> None:
        self._emitter.carry_out(self._decide.from_underlay(outer, payload, now))

    def _path_mtu_reported(self, destination: bytes, vsid: int, mtu: int, now: float) -> None:
        if self.forwarder.path_mtu_reported(destination, vsid, mtu, now) and self._fastpath is not None:
            self._fastpath.path_changed(destination)

    def _from_provider(self, packet: bytes, now: float) -> None:
        self._emitter.carry_out(self._decide.from_provider(packet, now))

    def _comes_here(self, change: Change) -> TypeGuard[Put]:
        """Whether the provider address of a rewritten record is to be found here from now on."""
        if not isinstance(change, Put) or change.record.translation is not Translation.REWRITE:
            return False
        record, before = change.record, self.find(change.record.vsid, change.record.ca)
        is_news = before is None or (before.host, before.pa) != (record.host, record.pa)
        return is_news and self.forwarder.node.holds(record)

    async def _serve_pools(self, nursery: trio.Nursery, appliance: Appliance) -> Sequence[Problem]:
        """Serve the addresses of this node's pools, and return why not where that cannot be."""
        pools = appliance.pools
        try:
            if self._serves_pools:
                await self.provider.replace_pools(pools)
            elif pools:
                await nursery.start(
                    self.provider.serve,
                    pools,
                    self._attachment,
                    self._from_provider,
                    lambda pa: self.forwarder.answers_for(pa, trio.current_time()),
                )
                self._serves_pools = True
        except ConfigurationError as error:
            return error.problems
        return ()

    def _from_port(self, port: PortKey, frame: bytes, now: float) -> None:
        self._emitter.carry_out(self._decide.from_port(port, frame, now))

    def _hold(self, frame: ToPort) -> None:
        self.forwarder.moves.hold(frame, trio.current_time())

    def _port_opened(self, port: PortKey) -> None:
        for emission in self.forwarder.moves.port_opened(port, trio.current_time()):
            self._emitter.send(emission)
        if self._listener is not None:
            self._listener.port_opened(port)

    def _port_closed(self, port: PortKey) -> None:
        self.forwarder.moves.port_closed(port)
        if self._listener is not None:
            self._listener.port_closed(port)

    def _read_policies(
        self, appliance: Appliance, keyring: Keyring
    ) -> tuple[tuple[PeerPolicy, ...], tuple[Problem, ...]]:
        if not appliance.takes_part:
            return peer_policies(appliance, keyring), ()
        return readable_policies(appliance, {policy.site: policy for policy in self._policies}, keyring)

    def _compile(self, appliance: Appliance) -> tuple[Tables, list[Change]]:
        """What is to be decided by, and what changes of the records where they are the file's alone.

        Those change by adoptions only, so that they can be compared while packets go on.
        """
        changes: list[Change] = []
        if not appliance.takes_part:
            changes = changes_between(self.forwarder.directory, configured_directory(appliance))
        return Tables.compile(appliance.network), changes

    def _check_ports(self, appliance: Appliance) -> None:
        check_ports(appliance.host.ports if appliance.host else (), self._attachment, read_links())

    async def _serve_port(
        self,
        port: Port,
        service: _Service,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            with service.scope:
                await self.ports.serve(
                    port,
                    self._from_port,
                    self.forwarder.port_mtu_is,
                    self._port_opened,
                    self._port_closed,
                    task_status=task_status,
                )
        finally:
            service.ended.set()

    async def _advertise_routers(self) -> None:
        while True:
            await trio.sleep(ADVERTISE_EVERY)
            for port in self._served:
                advertisement = self.forwarder.advertise_router((port.vsid, port.mac), trio.current_time())
                if advertisement is not None:
                    self._emitter.send(advertisement)

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRE_EVERY)
            for emission in self.forwarder.expire(trio.current_time()):
                self._emitter.send(emission)
