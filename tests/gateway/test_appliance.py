from __future__ import annotations

import gc
import threading
from functools import partial
from pathlib import Path

import trio
import trio.testing

from gateway import control
from gateway.aio import EventLoop, event_loop
from gateway.appliance import answers, run
from policies.model import Appliance, Engine, Network
from policies.services import LookupSettings


def lookup_node(folder: Path) -> Appliance:
    return Appliance(
        name="lookup-1",
        state=folder / "state",
        engine=Engine.AUTO,
        underlay=None,
        gateway=False,
        lookup=LookupSettings(listen="127.0.0.1:0"),
        host=None,
        network=Network(),
    )


def test_node_without_a_data_path_answers_that_it_has_no_sites(tmp_path: Path) -> None:
    appliance = lookup_node(tmp_path)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(run, appliance, None, lambda _: None, lambda: appliance)
            path = control.socket_path(appliance.state, appliance.name)
            assert await trio.to_thread.run_sync(partial(control.ask, path, "sites")) == []
            scope.cancel()

    trio.run(main)


def test_appliance_is_alive_only_while_the_asyncio_thread_is_too() -> None:
    gate, has_answered = threading.Event(), trio.Event()

    async def ask(loop: EventLoop) -> None:
        await answers(loop)
        has_answered.set()

    async def main() -> None:
        async with event_loop() as loop, trio.open_nursery() as nursery:
            loop.call_soon(gate.wait)
            nursery.start_soon(ask, loop)
            await trio.testing.wait_all_tasks_blocked()
            assert not has_answered.is_set()
            gate.set()
            await has_answered.wait()
        await answers(None)  # where there is no such thread, it keeps nobody waiting

    trio.run(main)


def test_collector_of_cycles_passes_over_what_an_appliance_is_made_of(tmp_path: Path) -> None:
    appliance = lookup_node(tmp_path)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(run, appliance, None, lambda _: None, lambda: appliance)
            assert gc.get_freeze_count() > 0
            scope.cancel()

    gc.unfreeze()
    try:
        trio.run(main)
    finally:
        gc.unfreeze()
