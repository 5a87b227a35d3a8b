"""The embedded store keeps the contract, from one opening to the next too, and refuses files in words."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import cast

import hypothesis
import pytest

from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Placement, RecordKey
from gateway.lookup.store import Compacted, Expect, LookupStore, Prefix, StoreUnavailable
from gateway.lookup.stores import sqlite_file
from gateway.lookup.stores.sqlite import SqliteStore
from gateway.lookup.stores.sqlite_writer import Transaction
from policies.addresses import CustomerAddress
from policies.errors import ConfigurationError
from policies.model import ProviderHost
from tests.gateway.lookup.entries import (
    CA4,
    KEY4,
    KEY6,
    PROVIDER,
    VALUES,
    WEB,
    OpenStore,
    at,
    events_of,
    listed,
    told,
)
from tests.gateway.lookup.stores.contract import StoreContract
from tests.gateway.lookup.stores.store_model import CONTENTION, OPERATIONS, Operation, check_against_model


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        numbers = count()

        @asynccontextmanager
        async def opened(now: Callable[[], float] = time) -> AsyncIterator[LookupStore]:
            async with store_in(tmp_path / str(next(numbers)), now=now) as store:
                yield store

        return opened


@asynccontextmanager
async def store_in(
    folder: Path, *, history: int = 1_000, now: Callable[[], float] = time
) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(folder / "lookup.db", history=history, now=now)
    try:
        yield store
    finally:
        await store.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())


@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 3)
@hypothesis.given(OPERATIONS)
def test_any_history_ends_as_it_does_in_a_model(operations: list[Operation]) -> None:
    with TemporaryDirectory() as folder:
        check_against_model(lambda now=time: store_in(Path(folder), now=now), operations)


@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 3)
@hypothesis.given(CONTENTION)
def test_no_address_is_anybodys_that_is_or_just_was_anothers(operations: list[Operation]) -> None:
    with TemporaryDirectory() as folder:
        check_against_model(lambda now=time: store_in(Path(folder), now=now), operations)


def test_everything_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            stored = [await store.put(key, value, Expect.ABSENT) for key, value in VALUES.items()]
            tombstone = await store.delete(KEY4, Expect.ANY)
            assert tombstone is not None
        async with store_in(tmp_path) as store:
            assert await store.get(KEY4) == tombstone
            assert [await store.get(key) for key in VALUES if key != KEY4] == stored[1:]
            granted = LeaseKey(cast("Placement", VALUES[KEY4]).pa)
            changes = await told(store, 0, tombstone.revision)
            assert [change for change in changes if change.key != granted] == [*stored, tombstone]
            later = await store.put(KEY4, at("hv1"), tombstone.epoch)
            assert (later.epoch, later.revision) == (tombstone.epoch + 1, tombstone.revision + 1)

    run(main)


def test_history_is_trimmed_by_itself_and_entries_stay(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path, history=100) as store:
            for number in range(30):
                keys = [RecordKey(WEB, CustomerAddress(bytes((10, 0, 0, n)))) for n in range(10)]
                await asyncio.gather(*(store.put(key, at(f"hv{number % 9 + 1}"), Expect.ANY) for key in keys))
            with pytest.raises(Compacted):
                await told(store, 150, 300)
            assert len(await told(store, 200, 300)) == 100
            assert len(await listed(store, Prefix(Kind.RECORD))) == 10
        with closing(sqlite3.connect(tmp_path / "lookup.db")) as connection:
            ((kept,),) = connection.execute("SELECT count(*) FROM history")
        assert 100 <= kept <= 120

    run(main)


def test_watch_from_a_revision_that_this_file_never_reached_has_to_list_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            await store.put(KEY4, at("hv1"), Expect.ABSENT)
            with pytest.raises(Compacted):
                await told(store, 2, 2)

    run(main)


def test_long_history_is_told_whole_and_a_claims_changes_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path, history=10_000) as store:
            keys = [RecordKey(WEB, CustomerAddress((n + 1).to_bytes(4))) for n in range(3_333)]
            stored = await asyncio.gather(*(store.put(key, at("hv1"), Expect.ABSENT) for key in keys))
            assert await told(store, 0, 3_333) == stored
            await store.delete(keys[0], Expect.ANY)

    run(main)


def test_file_is_its_owners_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path / "state" / "lookup") as store:
            await store.put(KEY4, at("hv1"), Expect.ABSENT)
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state/lookup").iterdir()
            }
            assert modes == dict.fromkeys(
                ("lookup.db", "lookup.db-wal", "lookup.db-shm", "lookup.db.lock"), 0o600
            )
            assert stat.S_IMODE((tmp_path / "state/lookup").stat().st_mode) == 0o700

    run(main)


def test_commits_reach_the_disk_before_they_are_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            journal, level = await store._writer.submit(
                lambda transaction: [
                    transaction.connection.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("journal_mode", "synchronous")
                ]
            )
            assert (journal, level) == ("wal", 2)  # FULL: the log is flushed at each commit

    run(main)


def test_file_that_is_open_already_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            with pytest.raises(ConfigurationError, match=r"lookup\.db: another process has it open"):
                await SqliteStore.open(tmp_path / "lookup.db")
            await store.put(KEY4, at("hv1"), Expect.ABSENT)
        async with store_in(tmp_path) as store:
            assert await store.get(KEY4) is not None

    run(main)


def _change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def _damage_page(path: Path) -> None:
    """Overwrite all pages but the first, which says what the others are."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: _change(path, "PRAGMA user_version = 3"), "a newer version of isthmus wrote it"),
        (lambda path: _change(path, "PRAGMA application_id = 7"), "another program's database"),
        (lambda path: path.write_bytes(b"not a database, but long enough " * 64), "no database"),
        (_damage_page, "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged"),
        (lambda path: _change(path, "DROP TABLE meta"), "damaged"),
        (lambda path: _change(path, "DELETE FROM meta"), "damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
    ids=["newer", "another's", "text", "damaged", "cut", "without-table", "without-row", "folder"],
)
def test_file_that_cannot_be_used_is_refused_in_words_and_let_go_of(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            await store.put(KEY4, at("hv1"), Expect.ABSENT)
        path = tmp_path / "lookup.db"
        spoil(path)
        for _ in range(2):  # the second time, too: nothing is held
            with pytest.raises(ConfigurationError, match=reason) as refusal:
                await SqliteStore.open(path)
            assert str(path) in str(refusal.value)

    run(main)


def test_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    async def main() -> None:
        with pytest.raises(ConfigurationError, match=r"Not a directory|File exists"):
            await SqliteStore.open(tmp_path / "state" / "lookup.db")

    run(main)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return cast("int", connection.execute("PRAGMA user_version").fetchone()[0])


def test_file_without_grants_is_one_that_older_programs_read(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "lookup.db"
        async with store_in(tmp_path) as store:
            await store.put(KEY4, at("hv1"), Expect.ABSENT)
            assert version_of(path) == 1
            await store.put(LeaseKey(PROVIDER["hv9"]), Grant(WEB, CA4, "edge-1"), Expect.ABSENT)
        assert version_of(path) == 2
        async with store_in(tmp_path) as store:
            assert [entry.key for entry in await listed(store, Prefix(Kind.LEASE))] == [
                LeaseKey(PROVIDER["hv9"])
            ]

    run(main)


def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            before = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            goes_on = threading.Event()

            def hold(transaction: Transaction) -> None:
                transaction.connection.execute("UPDATE entries SET epoch = epoch")
                goes_on.wait()

            held = asyncio.ensure_future(store._writer.submit(hold))
            later = asyncio.ensure_future(store.put(KEY4, at("hv2"), Expect.ANY))
            for _ in range(10):
                assert await store.get(KEY4) == before
                assert (await store.page(Prefix(Kind.RECORD), None, 9)).entries == [before]
            assert not later.done()
            goes_on.set()
            await held
            assert (await later).epoch == 2

    run(main)


def test_writes_that_wait_are_committed_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            goes_on = threading.Event()
            held = asyncio.ensure_future(store._writer.submit(lambda _: goes_on.wait()))
            keys = [RecordKey(WEB, CustomerAddress(bytes((10, 0, 0, n)))) for n in range(64)]
            writes = asyncio.gather(*(store.put(key, at("hv1"), Expect.ABSENT) for key in keys))
            await asyncio.sleep(0)
            commits: list[None] = []
            store._writer._committed = lambda: commits.append(None)
            goes_on.set()
            await held
            await writes
            assert len(commits) <= 3

    run(main)


def test_full_database_refuses_writes_in_words_until_there_is_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            small = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            writer = store._writer._connection
            writer.execute("PRAGMA max_page_count = 12")
            host = ProviderHost("hv1", (), tuple(f"tenant-{number}" for number in range(10_000)))
            key = NamedKey(Kind.HOST, "hv1")
            async with events_of(store, small.revision) as events:
                await anext(events)
                outcomes = await asyncio.gather(
                    store.put(KEY6, at("hv1"), Expect.ABSENT),
                    store.put(key, host, Expect.ABSENT),
                    return_exceptions=True,
                )
                assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
                assert "the disk is full" in str(outcomes[1])
                assert await store.get(key) is None
                assert await store.get(KEY6) is None
                assert await store.get(KEY4) == small

                writer.execute("PRAGMA max_page_count = 100000")
                stored = await store.put(key, host, Expect.ABSENT)
                assert stored.revision == small.revision + 1
                assert await anext(events) == stored

    run(main)


def test_read_only_database_refuses_writes_in_words_and_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            store._writer._connection.execute("PRAGMA query_only = ON")
            with pytest.raises(
                StoreUnavailable, match=r"lookup\.db: it is read-only .*; nothing was written"
            ):
                await store.put(KEY4, at("hv2"), Expect.ANY)
            assert await store.get(KEY4) == stored
            store._writer._connection.execute("PRAGMA query_only = OFF")
            assert (await store.put(KEY4, at("hv2"), Expect.ANY)).epoch == 2

    run(main)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_file_that_is_removed_or_replaced_while_it_is_open_gets_no_more_writes(
    tmp_path: Path, is_replaced: bool
) -> None:
    def take_away() -> None:
        (file,) = tmp_path.glob("*.db")
        file.rename(file.with_suffix(".old"))
        if is_replaced:
            file.touch()

    async def main() -> None:
        async with store_in(tmp_path) as store:
            stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            take_away()
            # It would be written where nobody finds it at the next start.
            with pytest.raises(StoreUnavailable, match="removed or replaced: restart isthmus"):
                await store.put(KEY4, at("hv2"), Expect.ANY)
            assert await store.get(KEY4) == stored

    run(main)


def test_one_write_that_cannot_be_made_harms_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            outcomes = await asyncio.gather(
                store.put(KEY4, at("hv1"), Expect.ABSENT),
                store.put(NamedKey(Kind.HOST, "\udc80"), ProviderHost("\udc80", (), ()), Expect.ABSENT),
                store.put(KEY6, at("hv1"), Expect.ABSENT),
                return_exceptions=True,
            )
            assert isinstance(outcomes[1], UnicodeEncodeError)
            assert [await store.get(KEY4), await store.get(KEY6)] == [outcomes[0], outcomes[2]]

    run(main)


def test_writes_that_wait_are_made_before_the_store_closes(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            is_held, goes_on = threading.Event(), threading.Event()

            def hold(_: Transaction) -> None:
                is_held.set()
                goes_on.wait()

            held = asyncio.ensure_future(store._writer.submit(hold))
            await asyncio.to_thread(is_held.wait)
            writes = [asyncio.ensure_future(store.put(KEY4, at(f"hv{n}"), Expect.ANY)) for n in range(1, 5)]
            await asyncio.sleep(0)
            closing_store = asyncio.ensure_future(store.close())
            # So that the end is in the queue when the writes are taken from it.
            threading.Timer(0.05, goes_on.set).start()
            await asyncio.gather(held, closing_store)
            assert [write.result().epoch for write in writes] == [1, 2, 3, 4]
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("lookup-")]

    run(main)


def test_closed_store_says_so_and_ends_its_watches(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store, events_of(store, 0) as events:
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreUnavailable, match="closed"):
                await waiting
            with pytest.raises(StoreUnavailable, match="closed"):
                await store.get(KEY4)
            with pytest.raises(StoreUnavailable, match="closed"):
                await store.put(KEY4, at("hv3"), Expect.ANY)

    run(main)


def test_cause_without_a_name_is_told_as_it_is() -> None:
    assert sqlite_file.cause(sqlite3.Error("out of luck")) == "out of luck"


def test_records_of_one_host_share_what_they_have_in_common(tmp_path: Path) -> None:
    async def main() -> None:
        async with store_in(tmp_path) as store:
            for key in (KEY4, KEY6):
                await store.put(key, at("hv1"), Expect.ABSENT)
            four, six = (cast("Placement", entry.value) for entry in await listed(store, Prefix(Kind.RECORD)))
            assert four.pa is six.pa
            assert four.host is six.host

    run(main)
