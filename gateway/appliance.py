"""The appliance: its nursery tree is the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import msgspec
import trio

from gateway import control
from gateway.aio import EventLoop, event_loop
from gateway.asked import Asked
from gateway.changes.reload import OwnFile, Reload
from gateway.datapath import DataPath
from gateway.lookout import Lookout
from gateway.membership import Membership
from gateway.operating import events, logs
from gateway.operating.commands import Commands
from gateway.operating.diary import Diary, diary_path
from gateway.orders import Orders
from gateway.paths import Opened, data_path, opened
from gateway.process import privileges, signals
from gateway.process.output import standard_output
from gateway.process.service_manager import ServiceManager
from gateway.process.stopping import LastResort
from gateway.questions import commands_of
from gateway.sites.policies import Keyring
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance

log = logging.getLogger("isthmus")

NOBODY = ServiceManager()


def main(appliance: Appliance, read: Callable[[Path | None], Appliance]) -> int:
    """Run an appliance until it is told to stop, and return the process's exit code.

    `read` reads a configuration, or for None the appliance's own once more, when that is asked for. Raises
    ConfigurationError, perhaps within an exception group, where the machine does not fit the configuration.
    """
    has = opened(appliance) if appliance.gateway or appliance.host is not None else None
    if has is None or has.fastpath is None:
        privileges.give_up_fast_path()  # while there is one thread
    with closing(standard_output()) as output:
        lines = logs.writing(output.write, appliance.log, time.monotonic)
        logging.basicConfig(handlers=[lines], level=logging.INFO)
        if sys.stderr is not None:
            faulthandler.enable()  # it says what hung, when the service manager ends us by SIGABRT for that
        signals.outlast()
        last_resort = LastResort(output.close)
        manager = ServiceManager.from_environment()
        trio.run(run, appliance, has, output.write, read, manager, last_resort.within)
    return 0


async def run(
    appliance: Appliance,
    has: Opened | None,
    write: Callable[[str], object],
    read: Callable[[Path | None], Appliance],
    manager: ServiceManager = NOBODY,
    end_within: Callable[[float], None] = lambda _seconds: None,
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an appliance's roles. Once every socket is open, report the scope that stops them.

    `has` is what was opened for forwarding; None for a lookup service alone. `write` takes the lines of
    reports; like logging, it must neither block nor fail. `manager` is told how we are. `end_within` is told
    how many seconds the end may take, from when a signal has asked for it. Raises ConfigurationError, within
    an exception group, where the machine does not fit the configuration.
    """
    if has is None and appliance.lookup is None:
        raise ConfigurationError([Problem("", "nothing to run: a role is needed")])
    diary = Diary(diary_path(appliance.state, appliance.name))
    with (
        trio.open_signal_receiver(*signals.heeded()) as received,
        events.kept(time.monotonic, diary.read()) as happenings,
    ):
        signals.release()
        path = data_path(appliance, has, happenings) if has is not None else None
        async with trio.open_nursery() as watchers, _asyncio_thread(appliance) as loop:
            async with trio.open_nursery() as traffic:
                lookout = Lookout(appliance, path, time.time, time.monotonic)

                def print_report() -> None:
                    write(msgspec.json.encode(lookout.reporter.report()).decode() + "\n")

                orders = Orders(appliance, path, traffic.cancel_scope, manager, end_within, print_report)
                watchers.start_soon(orders.heed, received)
                if path is not None:
                    await path.start(traffic, appliance)
                watchers.start_soon(lookout.watch, loop)
                keyring = Keyring()
                source = _source(appliance, path, loop, keyring)
                reload = Reload(source, read, keyring, wall_clock=time.time, around=orders.reloading)
                orders.reload = reload
                lookout.reporter.configuration = lambda: reload.configuration
                commands = commands_of(appliance, path, reload, happenings, source, lookout)
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
                _keep_from_collector()
                log.info("ready: %s", _in_words(appliance, path), extra={"event": "ready"})
                log.info("privileges: %s", privileges.in_words(), extra={"event": "privileges"})
                manager.ready(orders.in_words())
                watchers.start_soon(manager.keep_told, orders.in_words, partial(answers, loop))
                task_status.started(traffic.cancel_scope)
            watchers.cancel_scope.cancel()
    log.info("stopped", extra={"event": "stopped"})


def _keep_from_collector() -> None:
    """Have the collector of cycles pass over what the configuration is made of.

    Whenever it looked at a thousand sites, nothing would be forwarded for 0.18 s.
    """
    gc.collect()
    gc.freeze()


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


async def answers(loop: EventLoop | None) -> None:
    """Come back once every thread has that does our work."""
    if loop is not None:
        await loop.run(asyncio.sleep, 0)


def _in_words(appliance: Appliance, path: DataPath | None) -> str:
    roles = [f"gateway {appliance.name}"] if appliance.gateway else []
    if appliance.host is not None:
        roles.append(f"host {appliance.host.name} with {len(appliance.host.ports)} ports")
    if appliance.lookup is not None:
        roles.append(f"lookup service on {appliance.lookup.listen}, store {appliance.lookup.store}")
    addresses = appliance.underlay.provider_addresses if appliance.underlay else ()
    where = f", on {', '.join(str(address) for address in addresses)} {path.in_words}" if path else ""
    return f"{' and '.join(roles)}{where}"
