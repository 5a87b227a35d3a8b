"""A lookup node with a million records for the benchmarks, and the process that serves it.

Run as a program, it is a lookup node and a gateway's directory in one process, joined as in an
appliance: the store and the service on the asyncio thread, the directory on trio's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import trio

import gateway.appliance  # noqa: F401 - so that we take the memory that an appliance does
from gateway.aio import event_loop
from gateway.feed import Feed
from gateway.forwarding.directory import Change, Directory
from gateway.lab.processes import Process
from gateway.lookup.claims import Write
from gateway.lookup.entries import Placement, RecordKey
from gateway.lookup.network import entries_of
from gateway.lookup.roles import Serving, serve_records
from gateway.lookup.stores.sqlite_file import DatabaseFile
from gateway.lookup.stores.sqlite_writer import Transaction
from policies.addresses import CustomerAddress
from policies.model import Appliance, Engine, Network, ProviderHost, Tenant, VirtualSubnet
from policies.services import LookupSettings
from tests.bench.rates import NICENESS
from tests.bench.records import HOSTS, RECORDS, SUBNETS, record, resident_octets, vsid

LOADED = "loaded: "


class Cost(msgspec.Struct, frozen=True):
    """What it took a node to know everything: seconds, and octets of memory."""

    load: float
    resident: int


def network() -> Network:
    """A tenant for each virtual subnet, and hosts that have VMs of them."""
    names = [f"tenant-{number}" for number in range(SUBNETS)]
    prefix = ipaddress.IPv4Network("10.0.0.0/8")
    gateway = CustomerAddress.parse("10.0.0.1")
    tenants = tuple(
        Tenant(name, (), (VirtualSubnet("all", vsid(number), (prefix,), (gateway,)),))
        for number, name in enumerate(names)
    )
    served: dict[str, set[str]] = {}
    for number, name in enumerate(names):
        served.setdefault(record(number, 0).host, set()).add(name)
    hosts = tuple(ProviderHost(name, (pa,), tuple(sorted(served.get(name, ())))) for name, pa in HOSTS)
    return Network(hosts=hosts, tenants=tenants)


@contextlib.contextmanager
def filled_state() -> Iterator[Path]:
    """A state directory whose store holds the network and a million records."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        state = Path(directory)
        fill(state)
        yield state


def fill(state: Path) -> None:
    """Write everything as the store's writer would, many at once."""
    file = DatabaseFile(state / "records.sqlite")
    connection = file.connect()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -500000")
    writes = [Write(key, value, 1) for key, value in entries_of(network()).items()]
    for subnet in range(SUBNETS):
        for number in range(subnet, RECORDS, SUBNETS):
            each = record(number, 0)
            writes.append(Write(RecordKey(each.vsid, each.ca), Placement(each.mac, each.pa, each.host), 1))
        connection.execute("BEGIN IMMEDIATE")
        transaction = Transaction(connection)
        transaction.write(writes)
        transaction.forget(transaction.revision)
        transaction.finish(0)
        connection.execute("COMMIT")
        writes.clear()
    connection.close()
    file.close()


def start(state: Path, processor: int) -> tuple[Process, int, Cost]:
    """Run a node on one processor; return it with its port and what its start took."""
    arguments = [sys.executable, "-m", "tests.bench.lookup_node", str(state), str(processor)]
    log = state / "node.log"
    log.unlink(missing_ok=True)
    node = Process("node", arguments, log)
    cost = msgspec.json.decode(node.wait_for(f"^{LOADED}(.*)", timeout=120)[1], type=Cost)
    return node, int(node.wait_for(r"listens on .* port (\d+)")[1]), cost


def go_first(niceness: int = NICENESS) -> None:
    """Have little of our processor's time go to others: to those of other sessions, too (sched(7))."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        Path("/proc/self/autogroup").write_text(str(niceness))


@contextlib.contextmanager
def at_first() -> Iterator[None]:
    """Go first for a while, with what is started meanwhile."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    go_first()
    try:
        yield
    finally:
        go_first(niceness)


async def run(state: Path) -> None:
    """Serve, and say what it took until the directory knew everything."""
    directory = Directory()
    began = time.perf_counter()
    is_loaded = False

    def apply(changes: Sequence[Change]) -> None:
        for change in changes:
            directory.apply(change)

    async def adopt(_network: Network) -> None:
        pass

    def applied(revision: int) -> None:
        nonlocal is_loaded
        if revision and not is_loaded:
            is_loaded = True
            if len(directory) < RECORDS:
                raise AssertionError(f"{len(directory)} records are there of {RECORDS}")
            cost = {"load": time.perf_counter() - began, "resident": resident_octets()}
            print(f"{LOADED}{json.dumps(cost)}", flush=True)

    feed = Feed(apply, adopt, applied)
    settings = LookupSettings(listen="127.0.0.1:0")
    appliance = Appliance("node", state, Engine.PYTHON, None, True, settings, None, Network())
    async with event_loop() as loop, trio.open_nursery() as nursery:

        def started(serving: Serving) -> None:
            serving.replica.subscribe(lambda batch: loop.to_trio(feed.take, batch))

        nursery.start_soon(feed.run)
        await loop.run(serve_records, appliance, started)


def main(state: str, processor: str) -> None:
    """Run a node until it is ended."""
    os.sched_setaffinity(0, [int(processor)])
    go_first()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    trio.run(run, Path(state))


if __name__ == "__main__":
    main(*sys.argv[1:])
