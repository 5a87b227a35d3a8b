"""One TCP stream between a VM and a server at a site: host, gateway and strongSwan are between them.

    VM - hv1 - underlay - edge-1 - underlay - internet - device - server

The VM and the server have the offloads that guests have by default. The host and the
gateway are Python processes, and strongSwan's ESP (kernel-libipsec) is in user space too: they
share the machine's processors with each other and with both ends of the stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from gateway.lab import strongswan
from gateway.lab.userns import is_privileged
from tests.bench.rates import RUNS
from tests.bench.results import CannotMeasure, Result
from tests.bench.streams import megabits_per_second
from tests.interop.strongswan import SERVER, VM, Initiator, World, connected


def benchmark() -> Iterator[Result]:
    """Measure both directions in one world."""
    reason = strongswan.missing() if is_privileged() else "this needs network namespaces"
    if reason is not None:
        raise CannotMeasure(reason)
    with World() as world:
        world.add_premises("seattle")
        connected(world, Initiator.ISTHMUS)
        vm, server = world.vm("red-web1"), world.server("seattle")
        processors = f"on {len(os.sched_getaffinity(0))} processors"
        for what, sender, receiver, address in (
            ("VM to site", vm, server, SERVER),
            ("site to VM", server, vm, VM),
        ):
            yield Result(
                f"{what}: host and gateway in Python, strongSwan, {processors}, one TCP stream",
                "Mbit/s",
                tuple(megabits_per_second(sender, receiver, address) for _ in range(RUNS)),
            )
