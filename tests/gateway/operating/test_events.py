from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gateway.operating import events
from gateway.operating.commands import OWNER, Asker, carry_out
from gateway.operating.events import KEPT, Event, Events

log = logging.getLogger("isthmus.test")

SITE = {"event": "site-down", "tenant": "red", "site": "seattle"}


@pytest.fixture(autouse=True)
def _everything_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def told(kept: Events, asker: Asker = OWNER, **wanted: Any) -> list[Event]:
    found: list[Event] = []

    async def tell(event: Event) -> None:
        found.append(event)

    await carry_out(kept.commands(), asker, "events", wanted, tell)
    return found


def in_trio(function: Any) -> None:
    trio.run(function)


def test_event_is_what_was_logged_and_whom_it_concerns() -> None:
    async def main() -> None:
        with events.kept(float) as kept:
            log.warning("down: %s", "no answer", extra={**SITE, "vsid": 5001})
            [event] = await told(kept)

        assert (event.event, event.level, event.words) == ("site-down", "warning", "down: no answer")
        assert (event.tenant, event.site, event.details) == ("red", "seattle", {"vsid": 5001})
        assert event.at > 0

    in_trio(main)


def test_events_are_chosen_by_kind_tenant_site_and_time() -> None:
    async def main() -> None:
        with events.kept(float) as kept:
            log.warning("down", extra=SITE)
            log.info("up", extra={**SITE, "event": "site-up"})
            log.info("up", extra={"event": "site-up", "tenant": "blue", "site": "oslo"})
            log.info("ready", extra={"event": "ready"})
            everything = await told(kept)

            assert [event.event for event in everything] == ["site-down", "site-up", "site-up", "ready"]
            assert await told(kept, event="site-up,ready", tenant="") == everything[1:]
            assert await told(kept, tenant="red") == everything[:2]
            assert await told(kept, site="oslo") == everything[2:3]
            assert await told(kept, last=1) == everything[3:]
            assert await told(kept, last=0) == []
            assert await told(kept, since=everything[2].at) == everything[3:]

    in_trio(main)


def test_reader_of_one_tenant_hears_of_nobody_else() -> None:
    async def main() -> None:
        with events.kept(float) as kept:
            log.warning("down", extra=SITE)
            log.info("ready", extra={"event": "ready"})

            assert await told(kept, Asker("blue's", False, frozenset({"blue"}))) == []
            assert len(await told(kept, Asker("red's", False, frozenset({"red"})))) == 1

    in_trio(main)


def test_only_the_last_events_are_kept() -> None:
    async def main() -> None:
        with events.kept(float) as kept:
            for number in range(KEPT + 500):
                log.info("moved", extra={"event": f"e{number}"})
            found = await told(kept)

        assert len(found) == KEPT
        assert found[-1].event == f"e{KEPT + 499}"

    in_trio(main)


def test_flood_of_one_kind_makes_nothing_else_forgotten() -> None:
    now = [0.0]

    async def main() -> None:
        with events.kept(lambda: now[0]) as kept:
            log.warning("down", extra=SITE)
            for _ in range(5 * KEPT):
                now[0] += 1
                log.warning("who is that", extra={"event": "unknown-asker"})
            log.warning("up", extra={**SITE, "event": "site-up"})
            found = await told(kept)

        assert len(found) == KEPT
        assert [found[0].event, found[1].event, found[-1].event] == ["site-down", "unknown-asker", "site-up"]
        assert [each.at for each in found] == sorted(each.at for each in found)

    in_trio(main)


def test_follower_hears_what_happens_on_any_thread_in_order() -> None:
    async def main() -> None:
        found: list[str] = []

        async def tell(event: Event) -> None:
            found.append(event.event)

        with events.kept(float) as kept:
            log.info("before", extra={"event": "e0"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry_out, kept.commands(), OWNER, "events", {"follow": True}, tell)
                await wait_all_tasks_blocked()
                assert found == ["e0"]
                log.info("here", extra={"event": "e1"})
                thread = threading.Thread(target=lambda: log.info("there", extra={"event": "e2"}))
                thread.start()
                thread.join()
                while len(found) < 3:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

        assert found == ["e0", "e1", "e2"]

    in_trio(main)


def test_follower_that_reads_too_slowly_misses_the_oldest_and_goes_on() -> None:
    async def main() -> None:
        found: list[str] = []
        room = trio.Semaphore(1)

        async def tell(event: Event) -> None:
            await room.acquire()
            found.append(event.event)

        with events.kept(float) as kept:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry_out, kept.commands(), OWNER, "events", {"follow": True}, tell)
                await wait_all_tasks_blocked()
                log.info("first", extra={"event": "first"})
                await wait_all_tasks_blocked()
                for number in range(KEPT):
                    log.info("one", extra={"event": f"e{number}"})
                log.info("one", extra={"event": "second"})
                await wait_all_tasks_blocked()
                log.info("last", extra={"event": "last"})
                for _ in range(KEPT + 2):
                    room.release()
                while "last" not in found:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

        assert found[0] == "first"
        assert "e0" not in found

    in_trio(main)


def test_what_is_logged_after_the_end_is_nobodys() -> None:
    async def main() -> Events:
        with events.kept(float) as kept:
            return kept

    kept = trio.run(main)
    log.info("late")
    kept.handler.handle(logging.LogRecord("isthmus", logging.INFO, "", 0, "late", (), None))
