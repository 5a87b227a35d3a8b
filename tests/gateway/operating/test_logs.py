from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.operating import logs
from gateway.operating.logs import Limit
from policies.model import LogFormat


class Journal:
    """What one logger says, as it is written."""

    def __init__(self, form: LogFormat) -> None:
        self.text = ""
        self.has_room = True
        self.now = 0.0
        self.handler = logs.writing(self._write, form, lambda: self.now)
        self.log = logging.getLogger("isthmus.sites")

    def _write(self, text: str) -> bool:
        if not self.has_room:
            return False
        self.text += text
        return True

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@contextmanager
def journal(form: LogFormat) -> Iterator[Journal]:
    kept = Journal(form)
    root = logging.getLogger()
    root.addHandler(kept.handler)
    yield kept
    root.removeHandler(kept.handler)


@pytest.fixture(autouse=True)
def _everything_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def console() -> Iterator[Journal]:
    with journal(LogFormat.CONSOLE) as kept:
        yield kept


@pytest.fixture
def machine() -> Iterator[Journal]:
    with journal(LogFormat.JSON) as kept:
        yield kept


ABOUT = {"event": "site-down", "tenant": "red", "site": "seattle"}


def test_console_line_names_the_tenant_and_the_site_that_it_concerns(console: Journal) -> None:
    console.log.warning("down: %s", "no answer", extra=ABOUT)
    console.log.warning("dropped 5 packets", extra={"event": "dropped", "tenant": "red"})
    console.log.info("ready")

    said = [line.split(" ", 2)[2] for line in console.lines]
    assert said == [
        "WARNING isthmus.sites: tenant red site seattle: down: no answer",
        "WARNING isthmus.sites: tenant red: dropped 5 packets",
        "INFO isthmus.sites: ready",
    ]


def test_json_line_has_each_thing_under_its_own_key(machine: Journal) -> None:
    machine.log.warning("down: %s", "no answer", extra={**ABOUT, "vsid": 5001, "unrelated": "no"})

    line = json.loads(machine.text)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "isthmus.sites",
        "event": "site-down",
        "message": "down: no answer",
        "tenant": "red",
        "site": "seattle",
        "vsid": 5001,
    }


def test_time_in_json_is_that_of_rfc_3339(machine: Journal) -> None:
    record = logging.LogRecord("isthmus", logging.INFO, "", 0, "ready", (), None)
    record.created = 1_700_000_000.25

    machine.handler.handle(record)

    assert json.loads(machine.text)["ts"] == "2023-11-14T22:13:20.250Z"


@pytest.mark.parametrize("form", LogFormat)
def test_what_a_peer_has_written_stays_in_its_line(form: LogFormat) -> None:
    with journal(form) as kept:
        kept.log.warning("trouble: %s", "a\nb\r\x1b[2J\u2028\udcff\x9b", extra=ABOUT)

    assert len(kept.lines) == 1
    assert "\x1b" not in kept.text
    assert "\x9b" not in kept.text
    kept.text.encode()


@pytest.mark.parametrize("form", LogFormat)
def test_traceback_of_a_fault_of_ours_is_written(form: LogFormat) -> None:
    with journal(form) as kept:
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            kept.log.exception("failed")

    assert "Traceback" in kept.text
    assert "a bug" in kept.text


def test_flood_of_one_kind_is_cut_and_counted_and_leaves_the_others_alone(console: Journal) -> None:
    for _ in range(10_000):
        console.log.warning("trouble: %s", "no", extra={**ABOUT, "event": "site-trouble"})
    console.log.info("up", extra={**ABOUT, "event": "site-up"})

    assert len(console.lines) == logs.BURST + 1
    assert console.lines[-1].endswith("up")
    console.handler.tell_left_out()
    assert console.lines[-1].endswith("tenant red site seattle: left out 9950 lines like site-trouble")
    console.handler.tell_left_out()
    assert len(console.lines) == logs.BURST + 2

    console.now += 1
    for _ in range(100):
        console.log.warning("trouble: %s", "no", extra={**ABOUT, "event": "site-trouble"})
    assert len(console.lines) == logs.BURST + 2 + logs.RATE


def test_lines_without_an_event_are_limited_by_what_their_words_are_made_of(console: Journal) -> None:
    for number in range(1000):
        console.log.warning("refused number %d", number)

    assert len(console.lines) == logs.BURST


def test_lines_that_nobody_reads_in_time_are_counted_too(console: Journal) -> None:
    console.has_room = False
    for _ in range(3):
        console.log.warning("down", extra=ABOUT)
    console.handler.tell_left_out()
    console.has_room = True
    console.handler.tell_left_out()
    console.handler.tell_left_out()

    [said] = console.lines
    assert said.endswith("tenant red site seattle: left out 3 lines like site-down")


def test_many_tenants_at_once_are_limited_together(console: Journal) -> None:
    for number in range(10_000):
        console.log.warning("down", extra={"event": "site-down", "tenant": f"t{number}", "site": "hq"})

    assert len(console.lines) == logs.BURST_OF_ALL
    console.handler.tell_left_out()
    assert len(console.lines) == logs.BURST_OF_ALL + logs.MOST_TOLD + 1
    assert console.lines[-1].endswith("lines of 2077 other kinds")
    console.handler.tell_left_out()
    assert len(console.lines) == logs.BURST_OF_ALL + logs.MOST_TOLD + 1


def test_what_the_limit_remembers_is_bounded() -> None:
    limit = Limit()
    for number in range(3 * logs.MOST_KINDS):
        limit.allows(logging.LogRecord("isthmus", logging.INFO, "", 0, f"words {number}", (), None), 0.0)

    assert len(limit._accounts) <= logs.MOST_KINDS + 1
    left_out = limit.left_out()
    assert sum(left_out.values()) >= logs.MOST_KINDS
    for key in left_out:
        limit.told(key)
    limit.left_out()
    assert len(limit._accounts) < logs.MOST_KINDS


def test_line_that_cannot_be_written_is_no_failure_of_whoever_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_text: str) -> bool:
        raise OSError("full")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = logs.writing(refuse, LogFormat.JSON, float)

    handler.handle(logging.LogRecord("isthmus", logging.INFO, "", 0, "down", (), None))
