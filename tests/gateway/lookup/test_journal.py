"""The last known good copy outlives the process, whenever that ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.lookup.entries import (
    Event,
    Grant,
    Key,
    Kind,
    LeaseKey,
    NamedKey,
    Placement,
    Progress,
    RecordKey,
    Reset,
    Stored,
)
from gateway.lookup.journal import MAGIC, Journal, Snapshot
from gateway.lookup.replica import Replica
from gateway.lookup.store import StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import ProviderGateway

ROOT = Path(__file__).parents[3]
PA = ProviderAddress.parse("198.51.100.11")


def record(number: int, revision: int, *, frozen: bool = False, host: str = "hv1") -> Stored:
    key = RecordKey(Vsid(5001), CustomerAddress(bytes((10, 0, 1, number))))
    moves = (1.5, 2.5) if frozen else ()
    value = Placement(MacAddress(b"\x02\0\0\0\0\x05"), PA, host, frozen=frozen, moves=moves)
    return Stored(key, value, 1, revision)


def gone(number: int, revision: int) -> Stored:
    return Stored(record(number, 0).key, None, 2, revision)


GATEWAY = Stored(NamedKey(Kind.GATEWAY, "edge-1"), ProviderGateway("edge-1", (PA,)), 1, 2)


def granted(number: int, revision: int, returned_at: float | None = None, *, leased: bool = True) -> Stored:
    grant = Grant(Vsid(5001), CustomerAddress.parse("172.16.0.9"), "edge-1", returned_at, leased)
    return Stored(LeaseKey(ProviderAddress(bytes((192, 0, 2, number)))), grant, 1, revision)


async def loaded(path: Path) -> tuple[dict[Key, Stored], int | None]:
    found: dict[Key, Stored] = {}
    revision = None
    async for part in Journal(path).load():
        revision = part.revision
        for entry in part.entries:
            if entry.value is None:
                found.pop(entry.key, None)
            else:
                found[entry.key] = entry
    return found, revision


async def written(path: Path, *changes: tuple[list[Stored], int]) -> list[int]:
    """Write a snapshot, then changes one after the other, and return the sizes that the file had."""
    journal = Journal(path)
    plain = record(5, 1).record
    assert plain is not None
    snapshot = Snapshot([plain], [GATEWAY, record(6, 2, frozen=True)], 2)
    journal.rewrite()
    running = asyncio.create_task(journal.run(lambda: snapshot))
    sizes = [await _grown(path, 0)]
    for entries, revision in changes:
        journal.append(entries, revision)
        sizes.append(await _grown(path, sizes[-1]))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return sizes


async def _grown(path: Path, size: int) -> int:
    await until(lambda: size_of(path) > size)
    return size_of(path)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


async def until_at(path: Path, revision: int) -> None:
    """Wait until a file has come to a revision."""
    for _ in range(5_000):
        if ((await loaded(path))[1] or 0) >= revision:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


def test_what_is_written_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    asyncio.run(written(path, ([record(7, 3), gone(5, 4)], 4), ([gone(6, 5), record(5, 6, host="hv2")], 6)))
    entries = [GATEWAY, record(7, 3), record(5, 6, host="hv2")]
    assert asyncio.run(loaded(path)) == ({entry.key: entry for entry in entries}, 6)
    assert path.stat().st_mode & 0o777 == 0o600


def test_addresses_of_pools_are_written_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    gone = Stored(granted(67, 0).key, None, 2, 6)
    changes = [granted(65, 3), granted(66, 3, leased=False), granted(67, 4)]
    asyncio.run(written(path, (changes, 4), ([granted(65, 5, 1732278000.5), gone], 6)))

    entries, revision = asyncio.run(loaded(path))
    assert revision == 6
    found = [entry for entry in entries.values() if isinstance(entry.key, LeaseKey)]
    assert found == [granted(65, 5, 1732278000.5), granted(66, 3, leased=False)]


def test_a_snapshot_has_the_addresses_of_pools(tmp_path: Path) -> None:
    entries = [GATEWAY, record(5, 1), granted(65, 2), granted(66, 2, 9.5, leased=False)]

    async def source(after: int | None) -> AsyncIterator[Event]:
        yield Reset(2)
        for entry in entries:
            yield entry
        yield Progress(2)
        await asyncio.Event().wait()

    async def main() -> None:
        path = tmp_path / "journal"
        running = asyncio.create_task(Replica(source, journal=Journal(path)).run())
        await until_at(path, 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await loaded(path) == ({entry.key: entry for entry in entries}, 2)

    asyncio.run(main())


# Of the version before there were addresses of pools: as `written` writes it, with a record more.
OLDER = bytes.fromhex(
    "697374686d7573206a6f75726e616c20310a000000040c7b5c66930290900000007ed29f9edb9302919bcd1389c4040a"
    "0001060102c406020000000005c404c633640ba3687631a5656e636170c2c392cb3ff8000000000000cb400400000000"
    "00009195a767617465776179a6656467652d31010282a46e616d65a6656467652d31b270726f76696465725f61646472"
    "657373657391ad3139382e35312e3130302e31310000002b782f279c9302919bcd1389c4040a0001050101c406020000"
    "000005c404c633640ba3687631a5656e636170c2c290900000002b02d6c0989303919bcd1389c4040a0001070103c406"
    "020000000005c404c633640ba3687631a5656e636170c2c29090"
)


def test_what_an_older_version_wrote_is_used_until_everything_has_been_told_anew(tmp_path: Path) -> None:
    asked: list[int | None] = []
    tell = asyncio.Event()
    entries = [GATEWAY, record(5, 1), granted(65, 2)]

    async def source(after: int | None) -> AsyncIterator[Event]:
        asked.append(after)
        await tell.wait()
        yield Reset(4)
        for entry in entries:
            yield entry
        yield Progress(4)
        await asyncio.Event().wait()

    async def main() -> None:
        path = tmp_path / "journal"
        path.write_bytes(OLDER)
        replica = Replica(source, journal=Journal(path))
        running = asyncio.create_task(replica.run())
        await until(lambda: bool(asked))
        assert (replica.has_contents, replica.revision, len(replica)) == (True, 3, 3)
        # A newer node may have leased addresses before that revision: going on from there would miss them.
        assert asked == [None]
        tell.set()
        await until(lambda: path.read_bytes().startswith(MAGIC))
        assert (len(replica), replica.entry(granted(65, 0).key)) == (1, granted(65, 2))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await loaded(path) == ({entry.key: entry for entry in entries}, 4)

    asyncio.run(main())


def test_a_file_cut_short_anywhere_is_loaded_up_to_its_last_whole_frame(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "journal"
        first, second, third = await written(path, ([record(7, 3)], 3), ([gone(5, 4)], 4))
        whole = path.read_bytes()
        assert len(whole) == third
        for size in range(third + 1):
            path.write_bytes(whole[:size])
            entries, revision = await loaded(path)
            if size >= first:
                assert revision == (4 if size >= third else 3 if size >= second else 2)
                assert (record(5, 0).key in entries) == (size < third)
                assert (record(7, 0).key in entries) == (size >= second)

    asyncio.run(main())


def test_a_damaged_frame_and_what_follows_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first, second, _ = asyncio.run(written(path, ([record(7, 3)], 3), ([gone(5, 4)], 4)))
    data = bytearray(path.read_bytes())
    data[(first + second) // 2] ^= 1
    path.write_bytes(data)
    assert asyncio.run(loaded(path))[1] == 2


def test_what_is_appended_after_a_torn_frame_replaces_it(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "journal"
        _, second = await written(path, ([record(7, 3)], 3))
        path.write_bytes(path.read_bytes() + b"torn" * 30)
        journal = Journal(path)
        async for _ in journal.load():
            pass
        running = asyncio.create_task(journal.run(lambda: None))
        journal.append([gone(7, 4)], 4)
        await until_at(path, 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert path.stat().st_size < second + 120

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"", b"something else", MAGIC[:-1], MAGIC])
def test_a_file_of_nothing_is_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert asyncio.run(loaded(path)) == ({}, None)


def test_a_file_that_has_grown_to_more_than_twice_is_written_anew(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "journal"
        journal = Journal(path)
        snapshot = Snapshot((), [GATEWAY], 9)
        journal.rewrite()
        running = asyncio.create_task(journal.run(lambda: snapshot))
        small = await _grown(path, 0)
        journal.append([record(number % 250, number) for number in range(5000)], 8)
        await _grown(path, small)
        journal.append((), 9)
        await until(lambda: size_of(path) == small)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await loaded(path) == ({GATEWAY.key: GATEWAY}, 9)

    asyncio.run(main())


def test_a_node_that_starts_while_the_store_is_away_answers_from_what_it_knew(tmp_path: Path) -> None:
    asked: list[int | None] = []

    async def away(after: int | None) -> AsyncIterator[Event]:
        asked.append(after)
        if asked:
            raise StoreUnavailable("away")
        yield Progress(0)

    async def main() -> None:
        path = tmp_path / "journal"
        await written(path, ([record(7, 3)], 3))
        old = path.stat().st_mtime - 3600
        os.utime(path, (old, old))
        replica = Replica(away, journal=Journal(path))
        running = asyncio.create_task(replica.run())
        await until(lambda: bool(asked))
        assert (replica.has_contents, replica.is_synced, replica.revision) == (True, False, 3)
        assert replica.entry(record(6, 0).key) == record(6, 2, frozen=True)
        assert len(replica) == 3
        assert asked == [3]
        assert replica.stale_since is not None
        assert asyncio.get_running_loop().time() - replica.stale_since > 3600
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.lookup.entries import Progress, Reset
from gateway.lookup.journal import Journal
from gateway.lookup.replica import Replica
from tests.gateway.lookup.test_journal import record

async def source(after):
    if after is None:
        yield Reset(0)
        yield Progress(0)
    number = after or 0
    while True:
        number += 1
        yield record(number % 250, number)
        yield Progress(number)
        await asyncio.sleep(0)

asyncio.run(Replica(source, journal=Journal(Path(sys.argv[1]))).run())
"""


def test_a_killed_process_leaves_what_loads_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    last = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT) as process:
            try:
                asyncio.run(until_at(path, last + 300))
            finally:
                process.kill()
        entries, revision = asyncio.run(loaded(path))
        assert revision is not None
        assert revision > last
        newest = {entry.key: entry.revision for entry in entries.values()}
        for number in range(max(1, revision - 249), revision + 1):
            assert newest[record(number % 250, 0).key] >= number
        last = revision


def test_a_synced_replica_writes_what_it_is_told(tmp_path: Path) -> None:
    async def source(after: int | None) -> AsyncIterator[Event]:
        yield Reset(2)
        yield GATEWAY
        yield record(5, 1)
        yield Progress(2)
        yield gone(5, 3)
        yield Progress(3)
        await asyncio.Event().wait()

    async def main() -> None:
        path = tmp_path / "journal"
        running = asyncio.create_task(Replica(source, journal=Journal(path)).run())
        await until_at(path, 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await loaded(path) == ({GATEWAY.key: GATEWAY}, 3)

    asyncio.run(main())
