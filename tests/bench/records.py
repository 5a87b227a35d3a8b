"""One million records: how long they take to load, how much memory, one look-up, one change."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.forwarding.directory import Directory, Put
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord
from tests.bench.results import Result, in_fresh_process

RECORDS = 1_000_000
SUBNETS = 1_000
HOSTS = [(f"hv{n}", ProviderAddress(b"\xc6\x33" + n.to_bytes(2))) for n in range(500)]
SAMPLES = 200_000
RUNS = 3


class Cost(msgspec.Struct, frozen=True):
    """What one run measured, in seconds and octets."""

    load: float
    resident: int
    added: int
    look_up: float
    change: float


def benchmark() -> Iterator[Result]:
    """Measure in new processes, so that each counts its own memory only."""
    runs = [in_fresh_process(measure) for _ in range(RUNS)]
    yield Result("1 M records: load", "s", tuple(run.load for run in runs), at_most=10)
    yield Result("1 M records: whole process", "MB", tuple(run.resident / 1e6 for run in runs), at_most=500)
    yield Result("1 M records: memory of a record", "octets", tuple(run.added / RECORDS for run in runs))
    yield Result("1 M records: look-up", "us", tuple(run.look_up * 1e6 for run in runs))
    yield Result("1 M records: change", "us", tuple(run.change * 1e6 for run in runs), at_most=50)


def measure() -> Cost:
    """Fill a directory, then read and change records spread over all of it."""
    before = resident_octets()
    began = time.perf_counter()
    directory = Directory(record(n, 0) for n in range(RECORDS))
    load = time.perf_counter() - began
    resident = resident_octets()

    generator = random.Random(7637)
    chosen = [generator.randrange(RECORDS) for _ in range(SAMPLES)]
    keys = [(vsid(n), bytes(ca(n))) for n in chosen]
    began = time.perf_counter()
    for key in keys:
        directory.find(*key)
    look_up = (time.perf_counter() - began) / SAMPLES

    moves = [Put(record(n, 1)) for n in chosen]
    began = time.perf_counter()
    for move in moves:
        directory.apply(move)
    change = (time.perf_counter() - began) / SAMPLES
    if len(directory) != RECORDS:
        raise AssertionError(f"{len(directory)} records are left of {RECORDS}")
    return Cost(load=load, resident=resident, added=resident - before, look_up=look_up, change=change)


def record(number: int, epoch: int) -> LookupRecord:
    """Return one of many records; each epoch has it at another host."""
    host, pa = HOSTS[(number * 7 + epoch) % len(HOSTS)]
    mac = MacAddress(b"\x02" + number.to_bytes(5))
    return LookupRecord(vsid=vsid(number), ca=ca(number), mac=mac, pa=pa, host=host, epoch=epoch)


def vsid(number: int) -> Vsid:
    """Return the virtual subnet of a record."""
    return Vsid(0x1000 + number % SUBNETS)


def ca(number: int) -> CustomerAddress:
    """Return the address of a record."""
    return CustomerAddress(b"\x0a" + (number // SUBNETS + 2).to_bytes(3))


def resident_octets(process: int | str = "self") -> int:
    """Return how many octets of memory a process takes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no VmRSS")
