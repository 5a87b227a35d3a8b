"""The operating interface at the lookup service's listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from gateway.api.interface import interface
from gateway.api.measured import Scrape
from gateway.api.operating import Operating
from gateway.http.interface import Interface
from gateway.lookup.http.calls import Node
from gateway.operating.capture import CaptureFile
from gateway.operating.commands import Asker, Command, Commands, Nothing, carry_out
from gateway.operating.report import Report
from gateway.sites.status import SiteStatus
from policies.model import Network
from tests.gateway.api.appliance import site_status
from tests.gateway.lookup.http.test_service import is_problem
from tests.gateway.lookup.serving import GATEWAY, HV1, HV3, OPERATOR, READER, Serving, asking, lookup_node
from tests.gateway.lookup.serving import Asker as HttpAsker


class Here:
    """Carries commands out on this very thread: these need no other."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def ask(self, asker: Asker, command: str, arguments: Mapping[str, Any]) -> Any:
        async def unheard(_thing: Any) -> None:
            pass

        return await carry_out(self._commands, asker, command, arguments, unheard)

    async def follow(
        self, _asker: Asker, _command: str, _arguments: Mapping[str, Any]
    ) -> AsyncGenerator[list[Any], None]:
        yield []


async def _status(asker: Asker, _wanted: Nothing) -> dict[str, Any]:
    return {"name": "edge-1", "records": 0, "asker": asker.name}


async def _sites(asker: Asker, _wanted: Nothing) -> list[SiteStatus]:
    return [site_status("red", "seattle")] if asker.sees("red") else []


async def _report(_asker: Asker, _wanted: Nothing) -> Report:
    return Report(node="edge-1")


async def _scrape() -> Scrape:
    return Scrape(Report(node="edge-1"))


def answering(node: Node) -> Interface:
    """What is answered besides records."""
    commands = {
        "status": Command(_status),
        "sites": Command(_sites),
        "report": Command(_report, for_operators=True),
    }
    operating = Operating(Here(commands), commands, Network, node.door, CaptureFile, node)
    return interface(operating, _scrape)


def asked(test: Callable[[Serving], Awaitable[None]]) -> None:
    """Run a test with a lookup node that can be asked about the appliance, too."""

    async def main() -> None:
        async with lookup_node(answering=answering) as node:
            await test(node)

    asyncio.run(main())


def test_status_is_that_of_the_appliance_and_of_its_records() -> None:
    async def test(node: Serving) -> None:
        async with asking(node) as ask:
            status = (await ask("GET", "/v1/status")).body
            assert (status["name"], status["asker"], status["synced"]) == ("edge-1", "op", True)
            assert status["revision"] == node.replica.revision
            assert "alerts" in status

    asked(test)


def test_sites_are_those_of_the_store_each_with_how_it_is() -> None:
    async def test(node: Serving) -> None:
        for principal in (OPERATOR, GATEWAY, READER):
            async with asking(node, principal) as ask:
                (site,) = (await ask("GET", "/v1/sites")).body
                assert (site["tenant"], site["name"], site["status"]["state"]) == ("red", "seattle", "up")

    asked(test)


def test_hosts_have_what_the_lookup_service_tells_them_and_nothing_of_operating() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, HV1) as ask:
            assert (await ask("GET", "/v1/status")).status == 200
            assert [each["status"] for each in (await ask("GET", "/v1/sites")).body] == [None]
            for path in ("/v1/report", "/metrics"):
                assert is_problem(await ask("GET", path), 403, "host")
        async with asking(node, HV3) as ask:
            assert (await ask("GET", "/v1/sites")).body == []

    asked(test)


def test_records_are_still_answered_and_the_document_says_both() -> None:
    async def test(node: Serving) -> None:
        async with asking(node) as ask:
            assert (await ask("GET", "/v1/records")).status == 200
            assert (await ask("GET", "/v1/report")).body["node"] == "edge-1"
            paths = (await ask("GET", "/openapi.json")).body["paths"]
            assert {"/v1/records", "/v1/report", "/v1/watch", "/metrics", "/"} <= paths.keys()
            assert await _all_refs_lead_somewhere(ask)

    asked(test)


async def _all_refs_lead_somewhere(ask: HttpAsker) -> bool:
    document = (await ask("GET", "/openapi.json")).body
    schemas = document["components"]["schemas"]
    found: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                found.append(value["$ref"].removeprefix("#/components/schemas/"))
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(document)
    return bool(found) and set(found) <= schemas.keys()


def test_hints_of_a_gateway_reach_hosts_and_no_command() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, GATEWAY) as ask:
            hint = {"host": "hv1", "vsid": 5001, "ca": "10.0.1.5"}
            assert (await ask("POST", "/v1/hints", hint)).status == 202
            assert is_problem(await ask("GET", "/v1/report"), 403, "operators")

    asked(test)
