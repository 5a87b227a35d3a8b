"""The paths to the provider addresses of the network: what arrives there, at full size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import trio

from gateway.doctor.findings import Finding, Level
from gateway.doctor.prober import Path, open_prober
from gateway.forwarding.pmtu import OVERHEAD_IPV4, OVERHEAD_IPV6
from policies.addresses import ProviderAddress
from policies.model import Network

AREA = "path"

WITHIN = 7.0
"""Seconds for all paths together."""

MOST_NAMED = 6

Named = tuple[str, ProviderAddress]
"""A host or a gateway, and one of its provider addresses."""


def others(network: Network, own: Iterable[ProviderAddress]) -> list[Named]:
    """Return the provider addresses of everybody else."""
    ours = set(own)
    return [
        (node.name, pa)
        for nodes in (network.hosts, network.gateways)
        for node in nodes
        for pa in node.provider_addresses
        if pa not in ours
    ]


async def measure(
    targets: Iterable[Named], own: Iterable[ProviderAddress], mtu: int
) -> dict[Named, Path | None]:
    """Measure the paths to some addresses. None: there was no time left for it. Raises OSError."""
    found: dict[Named, Path | None] = dict.fromkeys(targets)
    async with open_prober(own) as prober:

        async def one(target: Named) -> None:
            found[target] = await prober.measure(target[1], mtu)

        with trio.move_on_after(WITHIN):
            async with trio.open_nursery() as nursery:
                for target in found:
                    nursery.start_soon(one, target)
    return found


def judge(paths: Mapping[Named, Path | None], mtu: int) -> Iterator[Finding]:
    """Say of the paths what is wrong with them: of those together that have the same."""
    alike: dict[tuple[Path | None, int], list[Named]] = {}
    for target, path in paths.items():
        alike.setdefault((path, target[1].version), []).append(target)
    good: list[Named] = []
    for (path, version), named in alike.items():
        where = _names(named)
        if path is None:
            words = f"there was no time left to measure the paths to {where}"
            yield Finding(AREA, Level.SKIPPED, words, "ask again")
        elif path.error is not None:
            advice = "look at `ip route get`, and at the addresses of the underlay's interfaces"
            yield Finding(AREA, Level.FAIL, f"nothing can be sent to {where}: {path.error}", advice)
        elif not path.answers:
            yield _silent(where, path.router)
        elif path.largest is not None and path.largest < mtu:
            yield _small(where, version, path.largest, path.router, mtu)
        else:
            good += named
    if good:
        largest_guest = mtu - (OVERHEAD_IPV4 if good[0][1].version == 4 else OVERHEAD_IPV6)
        words = f"{mtu} octets arrive unfragmented at {_names(good)}: guests' {largest_guest} fit"
        yield Finding(AREA, Level.OK, words)
    if not paths:
        yield Finding(AREA, Level.SKIPPED, "the network has no other provider address")


def _silent(where: str, router: str | None) -> Finding:
    why = "down, or ICMP echo is filtered" if router is None else f"not to be reached, says {router}"
    words = f"no ping is answered by {where}: {why}; what arrives there is not known"
    advice = "see that it is up; let ICMP echo requests through between provider addresses"
    return Finding(AREA, Level.WARN, words, advice)


def _small(where: str, version: int, largest: int, router: str | None, mtu: int) -> Finding:
    overhead = OVERHEAD_IPV4 if version == 4 else OVERHEAD_IPV6
    says = (
        f"{router} on the way says so"
        if router is not None
        else "nobody on the way says so: larger ones vanish"
    )
    words = f"packets of up to {largest} octets arrive at {where}, and up to {mtu} are sent: {says}"
    advice = (
        f"have the path carry {mtu}, or write mtu = {largest} in [underlay] of every node, which leaves"
        f" guests {largest - overhead}"
    )
    return Finding(AREA, Level.FAIL, words, advice)


def _names(named: list[Named]) -> str:
    shown = ", ".join(f"{address} ({name})" for name, address in named[:MOST_NAMED])
    return shown if len(named) <= MOST_NAMED else f"{shown} and {len(named) - MOST_NAMED} more"
