"""The records of virtual subnets, a million maybe, gone through in turns with what carries packets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import trio

from gateway.fastpath.blocks import blocks_for
from gateway.fastpath.images import TenantImage
from gateway.fastpath.sizes import Sizes
from gateway.forwarding.directory import Directory
from policies.addresses import Vsid
from policies.model import LookupRecord

_Counted = TypeVar("_Counted")

# Records of which something is done before other tasks get their turn: some two milliseconds.
SLICE = 400


async def for_each_record(
    directory: Directory, vsids: Iterable[Vsid], do: Callable[[LookupRecord], object]
) -> None:
    """Do something with each record that is there, as it is by then. Raises what that raises."""
    for vsid in vsids:
        for number, listed in enumerate(directory.of_subnet(vsid), 1):
            record = directory.find(vsid, listed.ca)
            if record is not None:
                do(record)
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()


async def blocks_of(records: Sequence[LookupRecord]) -> tuple[list[int], int]:
    """Do as `blocks_for` does, apart from what carries packets where there is much to count."""
    return await _apart(_blocks_of, records)


async def sizes_for(
    images: Mapping[str, TenantImage], directory: Directory, peers: int, factor: float
) -> Sizes:
    """Return how much room the tenants that are carried take, with so many times their records."""
    alone = blocks = ipv6 = 0
    for image in images.values():
        for vsid, _ in () if image.left_because else image.vsids:
            more_alone, more_blocks, more_ipv6 = await _apart(_room_of, directory.of_subnet(vsid))
            alone, blocks, ipv6 = alone + more_alone, blocks + more_blocks, ipv6 + more_ipv6
        await trio.lowlevel.checkpoint()
    alone, blocks, ipv6 = (int(count * factor) for count in (alone, blocks, ipv6))
    return Sizes.for_network(images, alone, ipv6, peers, blocks)


async def _apart(
    count: Callable[[Sequence[LookupRecord]], _Counted], records: Sequence[LookupRecord]
) -> _Counted:
    if len(records) < SLICE:
        return count(records)
    return await trio.to_thread.run_sync(count, records)


def _blocks_of(records: Sequence[LookupRecord]) -> tuple[list[int], int]:
    return blocks_for(record.ca for record in records)


def _room_of(records: Sequence[LookupRecord]) -> tuple[int, int, int]:
    """How many IPv4 addresses have places of their own, how many blocks there are, and IPv6 addresses."""
    prefixes, alone = _blocks_of(records)
    return alone, len(prefixes), sum(len(record.ca) == 16 for record in records)
