"""An appliance that is asked by HTTP: its commands on trio, the listener on asyncio, and someone who asks."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import trio

from gateway.aio import EventLoop, event_loop
from gateway.asked import Asked
from gateway.operating.commands import Asker, Command, Commands, NotAllowed, Nothing, Stream, Tell
from gateway.operating.report import Report
from gateway.sites.status import SiteStatus
from policies.errors import ConfigurationError, Problem
from policies.model import IkeIdentity, Network, Site, Tenant
from policies.services import ApiSettings, Credential, Role
from tests.gateway.lookup.serving import Asker as HttpAsker
from tests.gateway.sites import samples

OPERATOR, READER = "op", "red-reader"
TOKENS = {name: f"token-of-{name}-0123456789" for name in (OPERATOR, READER)}


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be said, and whether that goes on."""

    last: int = 1
    tenant: str = ""
    follow: bool = False


class Said(msgspec.Struct, frozen=True):
    """One thing that is said."""

    number: int
    text: str = ""


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a change is asked with."""

    confirm: int | None = None
    file: str | None = None


def site(tenant: str, name: str, gateway: str = "edge-1") -> Site:
    """A configured site."""
    prefix = ipaddress.ip_network("172.16.0.0/16")
    return Site(name, gateway, (prefix,), None, IkeIdentity(f"{tenant}.example", f"{name}.example"))


NETWORK = Network(
    tenants=(
        Tenant("red", ("edge-1",), (), sites=(site("red", "seattle"),)),
        Tenant("blue", ("edge-1",), (), sites=(site("blue", "berlin"), site("blue", "paris", "edge-2"))),
    )
)


def site_status(tenant: str, name: str) -> SiteStatus:
    """A site that is up."""
    return samples.site_status(
        tenant=tenant, site=name, local_id=f"{tenant}.example", remote_id=f"{name}.example"
    )


class Appliance:
    """Commands of each sort. What is told to whoever follows is counted, and so is who has left."""

    def __init__(self) -> None:
        self.told = 0
        self.ended = trio.Event()
        self.text = ""
        self.confirms: list[int | None] = []

    def commands(self) -> Commands:
        """What can be asked."""
        return {
            "status": Command(self._status),
            "sites": Command(self._sites),
            "report": Command(self._report, for_operators=True),
            "events": Stream(self._events, Wanted, told=Said),
            "reload": Command(self._reload, Done, for_operators=True),
            "moves": Command(self._fail),
        }

    async def _status(self, asker: Asker, _wanted: Nothing) -> dict[str, str]:
        return {"name": "edge-1", "asker": asker.name}

    async def _sites(self, asker: Asker, _wanted: Nothing) -> list[SiteStatus]:
        there = [site_status("red", "seattle"), site_status("blue", "berlin")]
        return [each for each in there if asker.sees(each.tenant)]

    async def _report(self, _asker: Asker, _wanted: Nothing) -> Report:
        return Report(node="edge-1")

    async def _events(self, asker: Asker, wanted: Wanted, tell: Tell) -> None:
        if wanted.tenant == "nobody":
            raise ConfigurationError([Problem("tenant", "there is no nobody")])
        if not asker.sees(wanted.tenant):
            raise NotAllowed(f"not {wanted.tenant}")
        try:
            for number in itertools.count() if wanted.follow and self.text else range(wanted.last):
                await tell(Said(number, self.text))
                self.told += 1
            if wanted.follow:
                await trio.sleep_forever()
        finally:
            self.ended.set()

    async def _reload(self, _asker: Asker, wanted: Done) -> Nothing:
        if wanted.confirm == 0:
            raise ConfigurationError([Problem("tenant[red]", "is wrong"), Problem("site", "is wrong, too")])
        self.confirms.append(wanted.confirm)
        return Nothing()

    async def _fail(self, _asker: Asker, _wanted: Nothing) -> Nothing:
        raise RuntimeError("the secret of secrets")


class Served(NamedTuple):
    """An appliance that is asked."""

    appliance: Appliance
    asked: Asked
    loop: EventLoop
    port: int
    settings: ApiSettings


@asynccontextmanager
async def served(
    folder: Path | None = None, *, network: Network = NETWORK, commands: Commands | None = None
) -> AsyncIterator[Served]:
    """An appliance with a listener of its own. With a folder for their tokens, only those are let in."""
    appliance = Appliance()
    settings = ApiSettings(listen="127.0.0.1:0", credentials=_credentials(folder) if folder else ())
    async with event_loop() as loop, trio.open_nursery() as nursery:
        asked = Asked(loop, settings, commands or appliance.commands(), lambda: network)
        port = await nursery.start(asked.run, settings)
        yield Served(appliance, asked, loop, port, settings)
        nursery.cancel_scope.cancel()


def _credentials(folder: Path) -> tuple[Credential, ...]:
    for name, token in TOKENS.items():
        (folder / name).write_text(token)
    return (
        Credential(OPERATOR, Role.OPERATOR, token_file=folder / OPERATOR),
        Credential(READER, Role.READER, ("red",), token_file=folder / READER),
    )


Test = Callable[[Served, HttpAsker], Awaitable[None]]


def asked(test: Test, folder: Path | None = None, *, name: str | None = None) -> None:
    """Run a test on the asyncio thread, with an appliance and somebody who asks it."""

    async def main() -> None:
        async with served(folder) as node:

            async def ask() -> None:
                async with aiohttp.ClientSession() as session:
                    token = None if name is None else TOKENS[name]
                    await test(node, HttpAsker(session, f"http://127.0.0.1:{node.port}", token))

            with trio.fail_after(20):
                await node.loop.run(ask)

    trio.run(main)
