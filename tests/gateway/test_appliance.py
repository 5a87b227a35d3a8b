from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from gateway import control
from gateway.appliance import run
from policies.model import Appliance, Engine, LookupSettings, Network


def test_node_without_a_data_path_answers_that_it_has_no_sites(tmp_path: Path) -> None:
    appliance = Appliance(
        name="lookup-1",
        state=tmp_path / "state",
        engine=Engine.AUTO,
        underlay=None,
        gateway=False,
        lookup=LookupSettings(listen="127.0.0.1:0"),
        host=None,
        network=Network(),
    )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(run, appliance, lambda _: None, lambda: appliance)
            path = control.socket_path(appliance.state, appliance.name)
            assert await trio.to_thread.run_sync(partial(control.ask, path, "sites")) == []
            scope.cancel()

    trio.run(main)
