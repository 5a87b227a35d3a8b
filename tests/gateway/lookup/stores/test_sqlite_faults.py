"""Nothing acknowledged is lost: the embedded store's process is killed, and its disk is full."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.lookup.entries import Grant, Key, Kind, LeaseKey, Stored
from gateway.lookup.store import Prefix
from gateway.lookup.stores.sqlite import SqliteStore
from policies.model import Translation
from tests.gateway.lookup.entries import listed, told
from tests.gateway.lookup.stores.sqlite_children import line_of, parse

ROOT = Path(__file__).parents[4]
CHILD = (sys.executable, "-m", "tests.gateway.lookup.stores.sqlite_children")


def killed_under_writers(folder: Path, seconds: float) -> list[str]:
    """What 64 writers were told before their process was killed."""
    with subprocess.Popen([*CHILD, "write", str(folder)], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        killer = threading.Timer(seconds, child.kill)
        killer.start()
        rest = child.stdout.read()
        killer.join()
    assert child.returncode == -9
    # The last line may have been cut off by the kill.
    return (first + rest).decode().splitlines(keepends=True)[:-1]


async def check(folder: Path, lines: list[str], before: int) -> int:
    """Every acknowledged write is in the history as it was told, and stands or was superseded.

    The records that are rewritten are those that hold an address, each its own.
    """
    store = await SqliteStore.open(folder / "lookup.db")
    page = await store.page(Prefix(Kind.RECORD), None, 1)
    history = await told(store, before, page.revision)
    changes = {(change.key, change.revision): change for change in history}
    entries = {key: await store.get(key) for key in {parse(line)[0] for line in lines}}
    live = {entry.key: entry for entry in await listed(store, Prefix(Kind.RECORD))}
    grants = {entry.key: entry for entry in await listed(store, Prefix(Kind.LEASE))}
    await store.close()

    for line in lines:
        key, epoch, revision, _ = parse(line)
        if revision > before:
            assert f"{line_of(changes[key, revision])}\n" == line
        entry = entries[key]
        assert entry is not None
        assert entry.revision >= revision
        assert entry.epoch >= epoch
    assert {key: entry.value for key, entry in grants.items() if is_held(entry)} == granted_by(live.values())
    assert any(is_held(entry) for entry in grants.values())
    last = {change.key: change for change in history if change.key.kind is Kind.RECORD}
    assert {key: change for key, change in last.items() if change.value is not None}.items() <= live.items()
    assert not live.keys() & {key for key, change in last.items() if change.value is None}
    return page.revision


def is_held(grant: Stored) -> bool:
    return isinstance(grant.value, Grant) and grant.value.returned_at is None


def granted_by(records: Iterable[Stored]) -> dict[Key, Grant]:
    """What rewritten records hold."""
    found = [entry.record for entry in records]
    return {
        LeaseKey(record.pa): Grant(record.vsid, record.ca, record.host)
        for record in found
        if record is not None and record.translation is Translation.REWRITE
    }


def kill(folder: Path, times: int) -> None:
    rng = random.Random(times)
    revision, acknowledged = 0, 0
    for _ in range(times):
        lines = killed_under_writers(folder, rng.uniform(0.02, 0.3))
        assert lines
        revision = asyncio.run(check(folder, lines, revision))
        acknowledged += len(lines)
    sys.stdout.write(f"{times} kills, {acknowledged} acknowledged writes, none lost\n")


def test_acknowledged_writes_outlive_a_killed_process(tmp_path: Path) -> None:
    kill(tmp_path, 3)


@pytest.mark.soak
def test_acknowledged_writes_outlive_twenty_killed_processes(tmp_path: Path) -> None:
    kill(tmp_path, 20)


def test_disk_that_fails_stops_writes_in_words_and_no_readers(tmp_path: Path) -> None:
    survive("limit", tmp_path, "the disk fails")


@pytest.mark.netns
def test_disk_that_is_full_stops_writes_in_words_and_no_readers(tmp_path: Path) -> None:
    survive("full", tmp_path, "the disk is full", "unshare", "--mount")


def survive(trouble: str, folder: Path, reason: str, *within: str) -> None:
    child = subprocess.run(
        [*within, *CHILD, trouble, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    summary, *reasons = child.stdout.splitlines()
    assert len(reasons) == 1, child.stdout
    assert reason in reasons[0]
    assert reasons[0].endswith("nothing was written")
    sys.stdout.write(f"{summary}\n")
