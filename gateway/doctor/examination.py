"""The whole examination: every area at once, within seconds, whatever hangs."""

from __future__ import annotations

import errno
import pwd
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import trio

from gateway.doctor import (
    certificates,
    clock,
    fastpath,
    firewall,
    ike_ports,
    kernel,
    neighbours,
    paths,
    pools,
    privileges,
    running,
    state,
    underlay,
)
from gateway.doctor.findings import Finding, Level
from gateway.doctor.prober import open_prober
from gateway.lookup.store import StoreUnavailable
from gateway.lookup_client import TrioLookupClient
from gateway.underlay.interfaces import Attachment, choose, read_links
from gateway.underlay.offloads import merging
from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine, Network

T = TypeVar("T")

CONFIGURATION = "configuration"
SITES = "sites"

WITHIN = 9.0
"""Seconds for everything."""
ASKED_WITHIN = 2.5
"""Seconds for the running appliance to answer, before the rest begins."""
NETWORK_WITHIN = 3.0
"""Seconds for a lookup node to tell the network, where the file does not."""


class Subject(msgspec.Struct, frozen=True):
    """What is examined: a configuration, what is wrong with its files, and the appliance that runs by it."""

    appliance: Appliance
    problems: tuple[Problem, ...]
    running: running.Running | str
    attachment: Attachment | tuple[Problem, ...]
    """Where the machine is attached to the underlay, or why it is not."""

    @property
    def process(self) -> int | None:
        """The running appliance's."""
        return None if isinstance(self.running, str) else self.running.process

    @property
    def forwards(self) -> bool:
        """Whether it carries packets."""
        return self.appliance.gateway or self.appliance.host is not None


Area = tuple[str, Callable[[Subject], Awaitable[list[Finding]]]]


async def examine(
    appliance: Appliance, problems: Sequence[Problem], done: Callable[[], object]
) -> list[Finding]:
    """Look at everything that an appliance needs, and return what is found, area by area.

    `problems` are those of its configuration's files. `done` is called after each of `AREAS`.
    """
    found: dict[str, list[Finding]] = {}
    with trio.CancelScope(deadline=trio.current_time() + WITHIN):
        subject = await _meet(appliance, tuple(problems))
        async with trio.open_nursery() as nursery:
            for area in AREAS:
                nursery.start_soon(_look, area, subject, found, done)
    for name, _ in AREAS:
        if name not in found:
            found[name] = [Finding(name, Level.SKIPPED, f"this took more than {WITHIN:.0f} s", "ask again")]
    return [finding for name, _ in AREAS for finding in found[name]]


async def _look(
    area: Area, subject: Subject, found: dict[str, list[Finding]], done: Callable[[], object]
) -> None:
    name, look = area
    try:
        found[name] = await look(subject)
    except OSError as error:
        words = f"this could not be looked at: {error.strerror or error}"
        found[name] = [Finding(name, Level.SKIPPED, words, "run this as root")]
    done()


async def _meet(appliance: Appliance, problems: tuple[Problem, ...]) -> Subject:
    """Ask the appliance itself, and the machine where it would be attached."""
    answer: running.Running | str = "it does not answer in time"
    with trio.move_on_after(ASKED_WITHIN):
        answer = await _thread(running.look, appliance.state, appliance.name)
    attachment: Attachment | tuple[Problem, ...] = ()
    if appliance.underlay is not None:
        try:
            attachment = choose(appliance.underlay, await _thread(read_links))
        except ConfigurationError as error:
            attachment = error.problems
    return Subject(appliance, problems, answer, attachment)


async def _configuration(subject: Subject) -> list[Finding]:
    if not subject.problems:
        return [Finding(CONFIGURATION, Level.OK, "the file is sound, and its secrets are closed to others")]
    advice = "put it right; `isthmus check FILE` lists the same"
    return [Finding(CONFIGURATION, Level.FAIL, str(each), advice) for each in subject.problems]


async def _appliance(subject: Subject) -> list[Finding]:
    return list(running.judge(subject.running))


async def _privileges(subject: Subject) -> list[Finding]:
    held = await _thread(privileges.look, subject.process)
    return list(privileges.judge(held, subject.appliance, is_running=subject.process is not None))


async def _kernel(subject: Subject) -> list[Finding]:
    interfaces = subject.attachment.interfaces if isinstance(subject.attachment, Attachment) else ()
    return list(kernel.judge(await _thread(kernel.look), subject.appliance, interfaces))


async def _underlay(subject: Subject) -> list[Finding]:
    if subject.appliance.underlay is None:
        return []
    if not isinstance(subject.attachment, Attachment):
        return list(underlay.problems(subject.attachment))
    offloads = {name: merging(name) for name in subject.attachment.interfaces}
    is_running = subject.process is not None
    return list(underlay.judge(subject.attachment, offloads, is_running=is_running))


async def _fast_path(subject: Subject) -> list[Finding]:
    if not subject.appliance.wants_fastpath or not isinstance(subject.attachment, Attachment):
        return []
    strict = (await _thread(kernel.look)).strict_sources
    machine = await _thread(fastpath.look, subject.appliance.name, subject.attachment.interfaces, strict)
    rules = await _thread(firewall.look)
    runs = not isinstance(subject.running, str) and subject.running.engine == Engine.XDP
    return list(fastpath.judge(machine, rules, subject.appliance, runs=runs))


async def _paths(subject: Subject) -> list[Finding]:
    settings, attachment = subject.appliance.underlay, subject.attachment
    if settings is None or not subject.forwards:
        return []
    if not isinstance(attachment, Attachment):
        return [Finding(paths.AREA, Level.SKIPPED, "the machine is not attached to the underlay")]
    network = await _network(subject.appliance)
    if isinstance(network, Finding):
        return [network]
    own = settings.provider_addresses
    try:
        found = await paths.measure(paths.others(network, own), own, attachment.mtu)
    except OSError as error:
        return [_no_echo(paths.AREA, error)]
    return list(paths.judge(found, attachment.mtu))


async def _pools(subject: Subject) -> list[Finding]:
    if not subject.forwards or not isinstance(subject.attachment, Attachment):
        return []
    network = await _network(subject.appliance)
    if isinstance(network, Finding):
        # That is said of the paths already.
        return []
    own, interfaces = pools.own(subject.appliance, network), subject.attachment.interfaces
    machine = await _thread(pools.look, interfaces, own)
    return list(pools.judge(machine, interfaces, own, is_running=subject.process is not None))


async def _clock(_subject: Subject) -> list[Finding]:
    return list(clock.judge(clock.look()))


async def _certificates(subject: Subject) -> list[Finding]:
    def look() -> Iterator[Finding]:
        for use, file, kind in certificates.named(subject.appliance):
            found = certificates.look(use, file, kind)
            if isinstance(found, Finding):
                yield found
            else:
                yield from (certificates.judge(each, time.time()) for each in found)

    return await _thread(lambda: list(look()))


async def _state(subject: Subject) -> list[Finding]:
    runner: int | None = None
    if subject.process is not None:
        runner = await _thread(state.owner_of, subject.process)
    elif subject.appliance.user is not None:
        try:
            runner = pwd.getpwnam(subject.appliance.user).pw_uid
        except KeyError:
            words = f"there is no user {subject.appliance.user}, who is to run the appliance"
            return [Finding(state.AREA, Level.FAIL, words, "useradd --system, or change [appliance] user")]
    return list(state.judge(await _thread(state.look, subject.appliance.state), runner))


async def _firewall(subject: Subject) -> list[Finding]:
    settings = subject.appliance.underlay
    if settings is None:
        return []
    addresses = [*settings.provider_addresses]
    if subject.appliance.gateway:
        addresses += [each for each in subject.appliance.site_addresses if each not in addresses]
    rules = await _thread(firewall.look)
    return list(firewall.judge(rules, addresses, has_sites=bool(_sites_here(subject.appliance))))


async def _ike(subject: Subject) -> list[Finding]:
    if not subject.appliance.gateway:
        return []
    found = await _thread(ike_ports.look)
    return list(ike_ports.judge(found, subject.appliance.site_addresses, subject.process))


async def _sites(subject: Subject) -> list[Finding]:
    """Ask the peers only where no appliance runs, and by a ping: a handshake would disturb them."""
    peers = _sites_here(subject.appliance)
    if not peers or subject.process is not None:
        return []
    own = subject.appliance.site_addresses
    found: list[Finding] = []

    async with open_prober(own) as prober, trio.open_nursery() as nursery:

        async def one(name: str, peer: ProviderAddress) -> None:
            path = await prober.measure(peer, 576 if peer.version == 4 else 1280)
            if path.error is not None:
                words = f"{name}: nothing can be sent to {peer}: {path.error}"
                found.append(Finding(SITES, Level.FAIL, words, "look at `ip route get`"))
            elif path.answers:
                words = f"{name}: {peer} answers a ping; whether it does IKE, the running appliance says"
                found.append(Finding(SITES, Level.OK, words))
            else:
                words = f"{name}: {peer} answers no ping, as many VPN devices do not"
                found.append(Finding(SITES, Level.SKIPPED, words, "start the appliance, and ask again"))

        for name, peer in peers:
            nursery.start_soon(one, name, peer)
    return sorted(found, key=lambda each: each.what)


async def _neighbours(subject: Subject) -> list[Finding]:
    asked = list(neighbours.of(subject.appliance))
    answers: dict[int, neighbours.Answer] = {}

    async def one(number: int, neighbour: neighbours.Neighbour) -> None:
        answers[number] = await _thread(neighbours.ask, neighbour)

    async with trio.open_nursery() as nursery:
        for number, neighbour in enumerate(asked):
            nursery.start_soon(one, number, neighbour)
    found = [neighbours.judge(neighbour, answers[number]) for number, neighbour in enumerate(asked)]
    skews = {
        neighbour.url: skew
        for number, neighbour in enumerate(asked)
        if (skew := answers[number].skew) is not None
    }
    return [*found, *clock.judge_skews(skews)]


AREAS: tuple[Area, ...] = (
    (CONFIGURATION, _configuration),
    (running.AREA, _appliance),
    (privileges.AREA, _privileges),
    (kernel.AREA, _kernel),
    (underlay.AREA, _underlay),
    (fastpath.AREA, _fast_path),
    (pools.AREA, _pools),
    (paths.AREA, _paths),
    (ike_ports.AREA, _ike),
    (SITES, _sites),
    (firewall.AREA, _firewall),
    (neighbours.AREA, _neighbours),
    (certificates.AREA, _certificates),
    (clock.AREA, _clock),
    (state.AREA, _state),
)
"""In the order in which they are told."""


async def _network(appliance: Appliance) -> Network | Finding:
    """Return the file's network, or the lookup service's where the file has none."""
    if appliance.network.hosts or appliance.lookup_access is None:
        return appliance.network
    with trio.move_on_after(NETWORK_WITHIN):
        try:
            async with TrioLookupClient(appliance.lookup_access) as client:
                return await client.network()
        except (StoreUnavailable, ConfigurationError) as error:
            words = f"no lookup node says which provider addresses there are: {error}"
            return Finding(paths.AREA, Level.SKIPPED, words)
    return Finding(
        paths.AREA, Level.SKIPPED, "no lookup node says in time which provider addresses there are"
    )


def _sites_here(appliance: Appliance) -> list[tuple[str, ProviderAddress]]:
    """The sites that this gateway dials, with their peers' addresses."""
    return [
        (f"{tenant.name}/{site.name}", site.peer)
        for tenant in (appliance.network.tenants if appliance.gateway else ())
        for site in tenant.sites
        if site.gateway == appliance.name and site.peer is not None
    ]


def _no_echo(area: str, error: OSError) -> Finding:
    why = "that is not permitted" if error.errno == errno.EPERM else error.strerror or str(error)
    return Finding(area, Level.SKIPPED, f"no ping can be sent: {why}", "run this as root")


async def _thread(function: Callable[..., T], *arguments: object) -> T:
    """Call something that blocks; if there is no time left for it, it is left behind."""
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
