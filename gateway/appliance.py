"""The appliance: its nursery tree is the order in which it starts and stops."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import closing

import msgspec
import trio

from gateway import control, signals
from gateway.emissions import Emitter
from gateway.forwarding.directory import configured_directory
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.pmtu import LOWEST_IPV6, OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.forwarding.verdicts import OuterHeader, PortKey
from gateway.host.ports import Ports
from gateway.output import standard_output
from gateway.reload import Reload
from gateway.report import report
from gateway.sites.policies import peer_policies
from gateway.sites.tunnels import SiteTunnels
from gateway.underlay.interfaces import Attachment, check_ports, choose, mtus_of, read_links
from gateway.underlay.service import Underlay
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Port
from policies.model import Underlay as UnderlaySettings
from policies.tables import Tables

log = logging.getLogger("isthmus")

# Seconds between two looks at what has been dropped: a flood makes one line, not one a packet.
WATCH_EVERY = 10.0


def main(appliance: Appliance, reread: Callable[[], Appliance]) -> int:
    """Run an appliance until it is told to stop, and return the process's exit code.

    `reread` reads the configuration once more, when a reload is asked for.
    """
    with closing(standard_output()) as output:
        logging.basicConfig(
            stream=output, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        trio.run(run, appliance, output.write, reread)
    return 0


async def run(
    appliance: Appliance,
    write: Callable[[str], None],
    reread: Callable[[], Appliance],
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the gateway and host roles. Once every socket is open, report the scope that stops them.

    `write` takes the lines of reports; like logging, it must neither block nor fail.
    Raises ConfigurationError, within an exception group, where the machine does
    not fit the configuration.
    """
    if appliance.underlay is None or not (appliance.gateway or appliance.host):
        problem = Problem("", "nothing to run: [underlay] and one of [gateway] and [host] are needed")
        raise ConfigurationError([problem])
    with trio.open_signal_receiver(*signals.heeded()) as received:
        signals.release()
        vm_ports = appliance.host.ports_in(appliance.network) if appliance.host else ()
        attachment = await trio.to_thread.run_sync(_attach, appliance.underlay, vm_ports)
        _warn_of_small_mtu(appliance, attachment.mtu)
        forwarder = Forwarder(
            Node.of(appliance, attachment.mtu),
            Tables.compile(appliance.network),
            configured_directory(appliance),
        )
        underlay, ports, tunnels = Underlay(), Ports(forwarder.drops), SiteTunnels(forwarder)
        emitter = Emitter(forwarder.drops, underlay.send, ports.send, tunnels.send)

        def from_underlay(outer: OuterHeader, payload: bytes, now: float) -> None:
            emitter.carry_out(forwarder.from_underlay(outer, payload, now))

        def from_port(port: PortKey, frame: bytes, now: float) -> None:
            emitter.carry_out(forwarder.from_port(port, frame, now))

        def print_report() -> None:
            write(msgspec.json.encode(report(forwarder, underlay, ports, tunnels)).decode() + "\n")

        async with trio.open_nursery() as watchers:
            async with trio.open_nursery() as traffic:

                async def take_sites(wanted: Appliance) -> None:
                    """Hold the sites to a configuration, and route by it; or raise, and change nothing."""
                    policies = await trio.to_thread.run_sync(peer_policies, wanted)
                    if policies and not tunnels.is_serving:
                        links = await trio.to_thread.run_sync(read_links)
                        mtus = mtus_of(wanted.site_addresses, links, attachment)
                        await tunnels.start(traffic, mtus, emitter.carry_out)
                    forwarder.replace_tables(Tables.compile(wanted.network))
                    tunnels.configure(wanted, policies)

                async def stop() -> None:
                    await tunnels.say_goodbye()
                    traffic.cancel_scope.cancel()

                watchers.start_soon(_heed_signals, received, print_report, stop)
                await traffic.start(
                    underlay.serve,
                    appliance.underlay.provider_addresses,
                    attachment,
                    from_underlay,
                    forwarder.may_admit,
                    forwarder.path_mtu_reported,
                )
                for port in vm_ports:
                    await traffic.start(ports.serve, port, from_port, forwarder.port_mtu_is)
                traffic.start_soon(ports.watch_mtus)
                await take_sites(appliance)
                commands = {"sites": tunnels.answer, "reload": Reload(appliance, reread, take_sites).answer}
                await _open_control(traffic, appliance, commands)
                watchers.start_soon(_watch_drops, forwarder)
                log.info("ready: %s", _in_words(appliance, attachment))
                task_status.started(traffic.cancel_scope)
            watchers.cancel_scope.cancel()
    log.info("stopped")


def _attach(settings: UnderlaySettings, vm_ports: Sequence[Port]) -> Attachment:
    """Find the underlay's interfaces. Raises ConfigurationError where ports are among them."""
    links = read_links()
    attachment = choose(settings, links)
    check_ports(vm_ports, attachment, links)
    return attachment


async def _open_control(
    nursery: trio.Nursery, appliance: Appliance, commands: Mapping[str, control.Command]
) -> None:
    """Listen to the command line, where that can be: forwarding is worth more than being asked about it."""
    try:
        await nursery.start(control.serve, control.socket_path(appliance.state, appliance.name), commands)
    except ConfigurationError as error:
        log.warning("the command line cannot ask this appliance: %s", error)


async def _heed_signals(
    received: AsyncIterator[int], print_report: Callable[[], None], stop: Callable[[], Awaitable[None]]
) -> None:
    async for number in received:
        if number == signal.SIGUSR1:
            print_report()
        else:
            log.info("stopping: %s", signal.Signals(number).name)
            await stop()


async def _watch_drops(forwarder: Forwarder) -> None:
    """Say what has been dropped since the last look: one line a reason and tenant."""
    seen = Counter(forwarder.drops.counts)
    while True:
        await trio.sleep(WATCH_EVERY)
        counts = Counter(forwarder.drops.counts)
        for (reason, tenant), packets in sorted((counts - seen).items()):
            log.warning("dropped %d packets%s: %s", packets, f" of {tenant}" if tenant else "", reason.value)
        seen = counts


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
        )


def _in_words(appliance: Appliance, attachment: Attachment) -> str:
    roles = [f"gateway {appliance.name}"] if appliance.gateway else []
    if appliance.host is not None:
        roles.append(f"host {appliance.host.name} with {len(appliance.host.ports)} ports")
    addresses = appliance.underlay.provider_addresses if appliance.underlay else ()
    return (
        f"{' and '.join(roles)}, on {', '.join(str(address) for address in addresses)}"
        f" ({', '.join(attachment.interfaces)}, MTU {attachment.mtu}), engine python"
    )
