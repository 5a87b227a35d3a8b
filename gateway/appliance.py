"""The appliance: its nursery tree is the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from gateway import control, privileges, signals
from gateway.aio import EventLoop, event_loop
from gateway.asked import Asked
from gateway.datapath import Builtin, DataPath
from gateway.forwarding.directory import Directory, configured_directory
from gateway.forwarding.pmtu import LOWEST_IPV6, OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.host.openvswitch.driver import OpenVswitchDriver
from gateway.host.uses import WatchedDirectory
from gateway.membership import Membership
from gateway.operating import events, logs, losses, moves, overview, status, tracing
from gateway.operating import trends as looked_back
from gateway.operating.capture import Captures
from gateway.operating.commands import Commands
from gateway.operating.diary import Diary, diary_path
from gateway.operating.events import Events
from gateway.operating.recent import RecentDrops
from gateway.operating.reporting import Reporter
from gateway.operating.trends import Trends
from gateway.output import standard_output
from gateway.reload import OwnFile, Reload
from gateway.service_manager import ServiceManager
from gateway.sites.policies import Keyring
from gateway.stopping import HASTENED, WITHIN, LastResort
from gateway.underlay.interfaces import Attachment, check_ports, choose, read_links
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, RecordsKept

log = logging.getLogger("isthmus")

# Seconds that a stop waits for what is not confirmed to be undone in a store.
LEAVE_WITHIN = 1.5

NOBODY = ServiceManager()


def main(appliance: Appliance, read: Callable[[Path | None], Appliance]) -> int:
    """Run an appliance until it is told to stop, and return the process's exit code.

    `read` reads a configuration, or for None the appliance's own once more, when that is asked for.
    """
    with closing(standard_output()) as output:
        lines = logs.writing(output.write, appliance.log, time.monotonic)
        logging.basicConfig(handlers=[lines], level=logging.INFO)
        if sys.stderr is not None:
            faulthandler.enable()  # it says what hung, when the service manager ends us by SIGABRT for that
        signals.outlast()
        last_resort = LastResort(output.close)
        trio.run(run, appliance, output.write, read, ServiceManager.from_environment(), last_resort.within)
    return 0


async def run(
    appliance: Appliance,
    write: Callable[[str], object],
    read: Callable[[Path | None], Appliance],
    manager: ServiceManager = NOBODY,
    end_within: Callable[[float], None] = lambda _seconds: None,
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an appliance's roles. Once every socket is open, report the scope that stops them.

    `write` takes the lines of reports; like logging, it must neither block nor fail. `manager` is told how
    we are. `end_within` is told how many seconds the end may take, from when a signal has asked for it.
    Raises ConfigurationError, within an exception group, where the machine does
    not fit the configuration.
    """
    forwards = appliance.gateway or appliance.host is not None
    if (forwards and appliance.underlay is None) or not (forwards or appliance.lookup):
        problem = Problem("", "nothing to run: a role is needed, and [underlay] for [gateway] and [host]")
        raise ConfigurationError([problem])
    diary = Diary(diary_path(appliance.state, appliance.name))
    with (
        trio.open_signal_receiver(*signals.heeded()) as received,
        events.kept(time.monotonic, diary.read()) as happenings,
    ):
        signals.release()
        path = await _prepare(appliance, happenings) if forwards else None
        async with trio.open_nursery() as watchers, _asyncio_thread(appliance) as loop:
            async with trio.open_nursery() as traffic:

                def print_report() -> None:
                    write(msgspec.json.encode(reporter.report()).decode() + "\n")

                async def stop() -> None:
                    manager.stopping("stopping")
                    end_within(WITHIN)
                    if reload is not None:
                        with trio.move_on_after(LEAVE_WITHIN):
                            await reload.leave()
                    if path is not None:
                        await path.say_goodbye()
                    traffic.cancel_scope.cancel()

                def read_again() -> None:
                    if reload is not None:
                        reload.ask()

                def hasten() -> None:
                    end_within(HASTENED)
                    traffic.cancel_scope.cancel()

                def in_words() -> str:
                    return _state_in_words(appliance, path)

                @contextmanager
                def reloading() -> Iterator[None]:
                    manager.reloading()
                    try:
                        yield
                    finally:
                        manager.ready(in_words())

                reload: Reload | None = None  # there is none before the start is over
                watchers.start_soon(_heed_signals, received, print_report, read_again, stop, hasten)
                watchers.start_soon(logs.tell_left_out)
                reporter = Reporter(appliance, path, time.time, time.monotonic)
                watchers.start_soon(reporter.watch, loop)
                if path is not None:
                    await path.start(traffic, appliance)
                keyring = Keyring()
                source = _source(appliance, path, loop, keyring)
                reload = Reload(source, read, keyring, wall_clock=time.time, around=reloading)
                reporter.configuration = lambda: reload.configuration
                recent = RecentDrops(path.drops) if path is not None else None
                if recent is not None:
                    watchers.start_soon(recent.watch)
                trends = Trends(path, trio.current_time, time.time) if path is not None else None
                if trends is not None:
                    watchers.start_soon(trends.run)
                commands = commands_of(appliance, path, reload, happenings, source, recent, reporter, trends)
                asked = _asked(loop, appliance, commands, source) if loop is not None else None
                if isinstance(source, OwnFile):
                    await source.start()
                else:
                    await source.start(traffic, asked.beside if asked is not None else None)
                if asked is not None and appliance.api is not None:
                    await traffic.start(asked.run, appliance.api)
                    reload.also(asked.take)
                await traffic.start(reload.run)
                await _open_control(traffic, appliance, commands)
                watchers.start_soon(happenings.write_down, diary.write)
                if path is not None:
                    watchers.start_soon(losses.watch, path)
                _keep_from_collector()
                log.info("ready: %s", _in_words(appliance, path), extra={"event": "ready"})
                log.info("privileges: %s", privileges.in_words(), extra={"event": "privileges"})
                manager.ready(in_words())
                watchers.start_soon(manager.keep_told, in_words, partial(answers, loop))
                task_status.started(traffic.cancel_scope)
            watchers.cancel_scope.cancel()
    log.info("stopped", extra={"event": "stopped"})


def _keep_from_collector() -> None:
    """Have the collector of cycles pass over what the configuration is made of.

    Whenever it looked at a thousand sites, nothing would be forwarded for 0.18 s.
    """
    gc.collect()
    gc.freeze()


async def _prepare(appliance: Appliance, happenings: Events) -> DataPath:
    """Make the data path: silent until it adopts a network."""
    attachment = await trio.to_thread.run_sync(_attach, appliance)
    _warn_of_small_mtu(appliance, attachment.mtu)
    directory = _directory(appliance)
    if appliance.host is not None and appliance.host.driver == "openvswitch":
        return OpenVswitchDriver(appliance, attachment.mtu, directory)
    return Builtin(appliance, attachment, directory, happenings.turns())


def _directory(appliance: Appliance) -> Directory:
    """What is known at the start: nothing, where it comes from the lookup service."""
    if not appliance.takes_part:
        return configured_directory(appliance)
    keeps_used = appliance.host is not None and appliance.host.records is RecordsKept.USED
    return WatchedDirectory() if keeps_used else Directory()


def _attach(appliance: Appliance) -> Attachment:
    """Find the underlay's interfaces. Raises ConfigurationError where ports are among them."""
    if appliance.underlay is None:
        raise ConfigurationError([Problem("underlay", "is missing")])
    links = read_links()
    attachment = choose(appliance.underlay, links)
    check_ports(appliance.host.ports if appliance.host else (), attachment, links)
    return attachment


@asynccontextmanager
async def _asyncio_thread(appliance: Appliance) -> AsyncIterator[EventLoop | None]:
    if not appliance.takes_part and appliance.api is None:
        yield None
        return
    async with event_loop() as loop:
        yield loop


def _source(
    appliance: Appliance, path: DataPath | None, loop: EventLoop | None, keyring: Keyring
) -> Membership | OwnFile:
    """Where the network and its records come from, and what takes a changed file over."""
    if appliance.takes_part and loop is not None:
        return Membership(appliance, loop, path, keyring)
    if path is None:
        raise ConfigurationError([Problem("", "nothing to run")])
    return OwnFile(appliance, path, keyring)


def commands_of(
    appliance: Appliance,
    path: DataPath | None,
    reload: Reload,
    happenings: Events,
    source: Membership | OwnFile,
    recent: RecentDrops | None,
    reporter: Reporter,
    trends: Trends | None,
) -> Commands:
    """Everything that this appliance can be asked, by the command line and by HTTP."""
    how_it_is = status.commands(
        status.Running(
            appliance=appliance,
            started_at=reporter.started_at,
            wall_clock=time.time,
            clock=time.monotonic,
            path=path,
            report=reporter.report,
            last_minute=recent.last_minute if recent is not None else list,
            configuration=lambda: reload.configuration,
            lookup=source.in_short if isinstance(source, Membership) else None,
        )
    )

    async def inventory() -> overview.Inventory:
        if path is None and isinstance(source, Membership):
            return await source.inventory()
        return overview.Inventory.of(source.appliance.network, path.held() if path is not None else {})

    shown = overview.Running(
        appliance=appliance, inventory=inventory, status=how_it_is["status"], clock=time.monotonic
    )
    return {
        **how_it_is,
        **overview.commands(shown, trends),
        **looked_back.commands(trends),
        **tracing.commands(path.explain if path is not None else None),
        **Captures(path, time.time).commands(),
        **happenings.commands(),
        **reload.commands(),
        **moves.commands(source.moves if isinstance(source, Membership) else None),
    }


def _asked(loop: EventLoop, appliance: Appliance, commands: Commands, source: Membership | OwnFile) -> Asked:
    """What answers by HTTP."""
    return Asked(
        loop,
        appliance.api,
        commands,
        network=lambda: source.appliance.network,
        replica=lambda: source.replica if isinstance(source, Membership) else None,
    )


async def _open_control(nursery: trio.Nursery, appliance: Appliance, commands: Commands) -> None:
    """Listen to the command line, where that can be: forwarding is worth more than being asked about it."""
    try:
        await nursery.start(control.serve, control.socket_path(appliance.state, appliance.name), commands)
    except ConfigurationError as error:
        log.warning("the command line cannot ask this appliance: %s", error, extra={"event": "control"})


async def _heed_signals(
    received: AsyncIterator[int],
    print_report: Callable[[], None],
    read_again: Callable[[], None],
    stop: Callable[[], Awaitable[None]],
    hasten: Callable[[], None],
) -> None:
    is_stopping = False
    terminal = signals.Terminal()
    async with trio.open_nursery() as nursery:
        async for number in received:
            if number == signal.SIGUSR1:
                print_report()
            elif number == signal.SIGHUP:
                if terminal.has_just_closed():
                    log.warning(
                        "the terminal is closed, and nothing else changes: SIGTERM stops, SIGHUP reloads",
                        extra={"event": "terminal-closed"},
                    )
                elif not is_stopping:
                    read_again()
            elif is_stopping:
                log.info("stopping at once: %s", signal.Signals(number).name, extra={"event": "stopping"})
                hasten()
            else:
                is_stopping = True
                log.info("stopping: %s", signal.Signals(number).name, extra={"event": "stopping"})
                nursery.start_soon(stop)


async def answers(loop: EventLoop | None) -> None:
    """Come back once every thread has that does our work."""
    if loop is not None:
        await loop.run(asyncio.sleep, 0)


def _warn_of_small_mtu(appliance: Appliance, mtu: int) -> None:
    """Say it where an interface carries too little for IPv6; a configured MTU has been checked before."""
    prefixes = [
        each for tenant in appliance.network.tenants for net in tenant.subnets for each in net.prefixes
    ]
    addresses = appliance.underlay.provider_addresses if appliance.underlay else ()
    overhead = OVERHEAD_IPV6 if any(address.version == 6 for address in addresses) else OVERHEAD_IPV4
    if mtu - overhead < LOWEST_IPV6 and any(prefix.version == 6 for prefix in prefixes):
        log.warning(
            "the underlay's MTU of %d leaves IPv6 guests %d octets: fewer than the %d that every IPv6 link"
            " must carry (RFC 8200 section 5)",
            mtu,
            mtu - overhead,
            LOWEST_IPV6,
            extra={"event": "small-mtu"},
        )


def _state_in_words(appliance: Appliance, path: DataPath | None) -> str:
    """How an appliance is, for a line of `systemctl status`."""
    roles = " and ".join(status.roles(appliance))
    if path is None:
        return f"{appliance.name}: {roles}"
    sites = path.sites()
    up = sum(site.state == "up" for site in sites)
    dialled = f", {up} of {len(sites)} sites up" if sites else ""
    return f"{appliance.name}: {roles}, {path.report().records} records{dialled}"


def _in_words(appliance: Appliance, path: DataPath | None) -> str:
    roles = [f"gateway {appliance.name}"] if appliance.gateway else []
    if appliance.host is not None:
        roles.append(f"host {appliance.host.name} with {len(appliance.host.ports)} ports")
    if appliance.lookup is not None:
        roles.append(f"lookup service on {appliance.lookup.listen}, store {appliance.lookup.store}")
    addresses = appliance.underlay.provider_addresses if appliance.underlay else ()
    where = f", on {', '.join(str(address) for address in addresses)} {path.in_words}" if path else ""
    return f"{' and '.join(roles)}{where}"
