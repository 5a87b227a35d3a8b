"""Processes with an embedded store that something happens to: killed, or left without room to write.

write FOLDER     64 writers; a line for each acknowledged write
full FOLDER      in a mount namespace of its own: a file system fills up
limit FOLDER     the kernel refuses to let files grow
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import cast

import msgspec

from gateway.lookup.claims import Claim, Mode
from gateway.lookup.entries import Key, Kind, RecordKey, Stored
from gateway.lookup.store import Expect, Prefix, StoreUnavailable, Taken
from gateway.lookup.stores.sqlite import SqliteStore
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Translation
from tests.gateway.lookup.entries import at, events_of, listed, told

WRITERS = 64
VSID = Vsid(5001)


def record_key(writer: int, number: int = 0) -> RecordKey:
    return RecordKey(VSID, CustomerAddress(bytes((10, number, 0, writer))))


def parse(line: str) -> tuple[RecordKey, int, int, str]:
    """An acknowledged write: the key, its epoch and revision, and its value in words."""
    ca, epoch, revision, value = line.split(" ", 3)
    return RecordKey(VSID, CustomerAddress.parse(ca)), int(epoch), int(revision), value


def line_of(stored: Stored) -> str:
    ca = cast("RecordKey", stored.key).ca
    return f"{ca} {stored.epoch} {stored.revision} {stored.value!r}"


async def write_for_ever(folder: Path) -> None:
    """64 writers, each with keys of its own and one that all share: puts, deletions and claims.

    They contend for a few provider addresses, too, whose quarantine is over in milliseconds.
    """
    store = await SqliteStore.open(folder / "lookup.db", now=lambda: time.time() * 100_000)

    async def write(writer: int) -> None:
        rng = random.Random(writer)
        mac = MacAddress(b"\x02\0\0\0\0" + bytes((writer,)))
        addresses = (record_key(writer, 1).ca, record_key(writer, 2).ca)
        while True:
            host = rng.randrange(1, 10)
            what = rng.randrange(12)
            if what == 0:
                stored = [await store.delete(record_key(writer), Expect.ANY)]
            elif what == 1:
                pa = ProviderAddress(bytes((198, 51, 100, host)))
                claim = Claim(VSID, mac, pa, f"hv{host}", Mode.ORCHESTRATE, 0.0, addresses)
                stored = [*await store.claim(claim)]
            elif what == 2:
                stored = [await store.put(record_key(200), at(f"hv{host}"), Expect.ANY)]
            elif what < 6:
                pa = ProviderAddress(bytes((203, 0, 113, rng.randrange(WRITERS // 4))))
                value = msgspec.structs.replace(at(f"hv{host}"), pa=pa, translation=Translation.REWRITE)
                try:
                    stored = [await store.put(record_key(writer), value, Expect.ANY)]
                except Taken:
                    continue
            else:
                stored = [await store.put(record_key(writer), at(f"hv{host}"), Expect.ANY)]
            lines = "".join(f"{line_of(each)}\n" for each in stored if each is not None)
            os.write(1, lines.encode())

    await asyncio.gather(*map(write, range(WRITERS)))


async def survive(folder: Path, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Let writers run into trouble, and see that readers don't mind and nothing is lost or half-written."""
    store = await SqliteStore.open(folder / "store" / "lookup.db")
    puts = [store.put(record_key(number), at("hv1"), Expect.ABSENT) for number in range(200)]
    acknowledged: dict[Key, Stored] = {each.key: each for each in await asyncio.gather(*puts)}
    reasons: list[str] = []
    has_ended = asyncio.Event()

    async def write(writer: int) -> None:
        for number in count(1):
            mac = MacAddress(b"\x02\1" + number.to_bytes(3) + bytes((writer,)))
            addresses = tuple(
                CustomerAddress(bytes((10 + family, *number.to_bytes(2), writer))) for family in (1, 2)
            )
            pa = ProviderAddress(bytes((198, 51, 100, 1)))
            try:
                stored = await store.claim(Claim(VSID, mac, pa, "hv1" * 200, Mode.REGISTER, 0.0, addresses))
            except StoreUnavailable as error:
                reasons.append(str(error))
                return
            acknowledged.update({each.key: each for each in stored})

    async def read() -> int:
        for reads in count(1):
            page = await store.page(Prefix(Kind.RECORD, VSID), None, 500)
            assert len(page.entries) >= 200
            assert await store.get(record_key(7)) == acknowledged[record_key(7)]
            if has_ended.is_set():
                return reads
        raise AssertionError

    async def watch() -> int:
        changes = 0
        async with events_of(store, 0) as events:
            async for event in events:
                changes += isinstance(event, Stored)
                if has_ended.is_set():
                    return changes
        raise AssertionError

    readers = [asyncio.ensure_future(read()), asyncio.ensure_future(watch())]
    begin()
    await asyncio.gather(*map(write, range(WRITERS)))
    for number in range(20):  # some of these still find room, and readers go on
        try:
            stored = await store.put(record_key(250), at(f"hv{number % 2 + 1}"), Expect.ANY)
        except StoreUnavailable as error:
            reasons.append(str(error))
        else:
            acknowledged[stored.key] = stored
    await _check(store, acknowledged)

    end()
    later = record_key(251)
    acknowledged[later] = await store.put(later, at("hv2"), Expect.ABSENT)
    has_ended.set()
    reads, changes = await asyncio.gather(*readers)
    await _check(store, acknowledged)
    await store.close()

    reopened = await SqliteStore.open(folder / "store" / "lookup.db")
    await _check(reopened, acknowledged)
    await reopened.close()
    summary = (
        f"{len(acknowledged)} acknowledged, {len(reasons)} refused, {reads} reads, {changes} changes told"
    )
    sys.stdout.write("\n".join((summary, *sorted(set(reasons)))) + "\n")


async def _check(store: SqliteStore, acknowledged: dict[Key, Stored]) -> None:
    """Exactly what has been acknowledged is there, and the history leads to it."""
    live = {entry.key: entry for entry in await listed(store, Prefix(Kind.RECORD))}
    assert live == acknowledged, len(live.items() ^ acknowledged.items())
    revision = max(entry.revision for entry in live.values())
    assert {change.key: change for change in await told(store, 0, revision)} == live


def _in_a_full_file_system(folder: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    filler = folder / "filler"

    def begin() -> None:
        free = os.statvfs(folder)
        filler.write_bytes(bytes(free.f_bavail * free.f_bsize - 700_000))

    asyncio.run(survive(folder, begin, filler.unlink))


def _under_a_limit(folder: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(octets: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))

    asyncio.run(survive(folder, lambda: limit(900_000), lambda: limit(hard)))


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        asyncio.run(write_for_ever(where))
    elif what == "full":
        _in_a_full_file_system(where)
    else:
        _under_a_limit(where)
