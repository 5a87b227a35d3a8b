"""The records of virtual subnets, a million maybe, gone through in turns with what carries packets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from gateway.fastpath.blocks import blocks_for
from gateway.fastpath.images import TenantImage
from gateway.fastpath.sizes import Sizes
from gateway.forwarding.directory import Directory
from policies.addresses import Vsid
from policies.model import LookupRecord

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
    addresses = [record.ca for record in records]
    if len(addresses) < SLICE:
        return blocks_for(addresses)
    return await trio.to_thread.run_sync(blocks_for, addresses)


async def sizes_for(
    images: Mapping[str, TenantImage], directory: Directory, peers: int, factor: float
) -> Sizes:
    """Return how much room the tenants that are carried take, with so many times their records."""
    alone = blocks = ipv6 = 0
    for image in images.values():
        for vsid, _ in () if image.left_because else image.vsids:
            records = directory.of_subnet(vsid)
            prefixes, others = await blocks_of(records)
            blocks += len(prefixes)
            alone += others
            ipv6 += sum(len(record.ca) == 16 for record in records)
    alone, blocks, ipv6 = (int(count * factor) for count in (alone, blocks, ipv6))
    return Sizes.for_network(images, alone, ipv6, peers, blocks)
