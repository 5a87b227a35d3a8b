from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.operating import events
from gateway.operating.diary import LONGEST, Diary, diary_path
from gateway.operating.events import KEPT, Event
from gateway.sites.ledger import Turn

log = logging.getLogger("isthmus.test")

DOWN = Event(
    1.0, "site-down", "warning", "down: no answer", tenant="red", site="seattle", details={"vsid": 5001}
)


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(diary_path(tmp_path, "edge-1"))


@pytest.fixture(autouse=True)
def _what_happens_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def run(main: Any) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0.05))


def test_what_is_written_is_read_again(diary: Diary) -> None:
    diary.write([DOWN])
    diary.write([Event(2.0, "ready", "info", "ready")])
    assert diary.read() == [DOWN, Event(2.0, "ready", "info", "ready")]


def test_without_a_file_nothing_has_happened(diary: Diary) -> None:
    assert diary.read() == []


def test_file_is_its_owners_alone(diary: Diary, tmp_path: Path) -> None:
    diary.write([DOWN])
    assert (tmp_path / "edge-1.events").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b'{"at":1.0,"eve', b"\xff\xfe\n", b"[]\n\n", b"\0" * 5000 + b"\n"])
def test_lines_that_cannot_be_read_are_passed_over(diary: Diary, tmp_path: Path, damage: bytes) -> None:
    diary.write([DOWN])
    with (tmp_path / "edge-1.events").open("ab") as file:
        file.write(damage)
    assert diary.read() == [DOWN]


def test_file_does_not_grow_for_ever_and_keeps_the_latest(diary: Diary, tmp_path: Path) -> None:
    words = "x" * 500
    for number in range(60):
        diary.write(Event(float(100 * number + each), "dropped", "warning", words) for each in range(100))
        assert (tmp_path / "edge-1.events").stat().st_size <= LONGEST
    kept = diary.read()
    assert len(kept) <= KEPT
    assert [event.at for event in kept] == [float(6000 - len(kept) + each) for each in range(len(kept))]
    assert [file.name for file in tmp_path.iterdir()] == ["edge-1.events"]


def test_link_in_its_place_is_not_followed(diary: Diary, tmp_path: Path) -> None:
    (tmp_path / "edge-1.events").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        diary.write([DOWN])
    assert not (tmp_path / "elsewhere").exists()


def test_what_happened_before_a_restart_comes_first_and_is_not_written_twice(diary: Diary) -> None:
    async def lives(words: str) -> list[str]:
        with events.kept(trio.current_time, diary.read()) as happenings:
            log.info("%s begins", words)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(happenings.write_down, diary.write)
                await trio.sleep(3)
                log.info("%s works", words)
                await trio.sleep(3)
                log.info("%s ends", words)
                nursery.cancel_scope.cancel()
            return [event.words for event in happenings.last()]

    async def main() -> None:
        first = await lives("the first")
        assert first == ["the first begins", "the first works", "the first ends"]
        assert await lives("the second") == [
            *first,
            "the second begins",
            "the second works",
            "the second ends",
        ]
        assert len(diary.read()) == 6

    run(main)


def test_disk_that_is_full_is_said_once_and_what_could_not_be_written_is_written_later() -> None:
    async def main() -> None:
        written: list[Event] = []
        is_full = True

        def write(found: list[Event]) -> None:
            if is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.extend(found)

        with events.kept(trio.current_time) as happenings:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(happenings.write_down, write)
                for number in range(5):
                    log.info("line %d", number)
                    await trio.sleep(2)
                is_full = False
                log.info("the last")
                await trio.sleep(2)
                nursery.cancel_scope.cancel()
            said = [event.event for event in happenings.last()]
        assert said.count("events-not-kept") == 1
        assert [event.words for event in written if event.event == "other"] == [
            *(f"line {number}" for number in range(5)),
            "the last",
        ]

    run(main)


def test_sites_turns_are_found_among_the_events() -> None:
    async def main() -> None:
        before = [
            DOWN,
            Event(2.0, "site-rekeyed", "info", "rekeyed: ike", tenant="red", site="seattle"),
            Event(3.0, "site-up", "info", "up: aes for a === b", tenant="red", site="seattle"),
            Event(4.0, "ready", "info", "ready"),
        ]
        with events.kept(trio.current_time, before) as happenings:
            assert happenings.turns() == {
                ("red", "seattle"): [Turn(1.0, "down", "no answer"), Turn(3.0, "up", "aes for a === b")]
            }

    run(main)
