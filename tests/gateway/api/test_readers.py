"""Whoever reads as Red never hears of Blue, whatever they ask: of all commands that an appliance has."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import msgspec
import trio

from docs.generate import everything_by_http
from gateway.api.table import OPERATIONS, Form
from tests.gateway.api.appliance import OPERATOR, READER, TOKENS, served
from tests.gateway.api.everything import MARKS, everything

DOCUMENT = msgspec.json.decode(everything_by_http())
READS = [each for each in OPERATIONS if each.method == "GET" and each.form is not Form.CAPTURE]

Ask = Callable[[str], Awaitable[tuple[int, str]]]


def asked(folder: Path, name: str, test: Callable[[Ask], Awaitable[None]]) -> None:
    """Run a test with somebody who asks such an appliance."""

    async def main() -> None:
        async with (
            everything(folder) as (commands, network),
            served(folder, network=network, commands=commands) as node,
        ):

            async def ask_all() -> None:
                headers = {"Authorization": f"Bearer {TOKENS[name]}"}
                async with aiohttp.ClientSession(headers=headers) as session:

                    async def ask(path: str) -> tuple[int, str]:
                        async with session.get(f"http://127.0.0.1:{node.port}{path}") as response:
                            return response.status, await response.text()

                    await test(ask)

            await node.loop.run(ask_all)

    trio.run(main)


def _calls() -> Iterator[tuple[str, list[str]]]:
    """Every path that is read, with the names of its arguments."""
    for each in READS:
        parameters = DOCUMENT["paths"][each.path]["get"].get("parameters", ())
        yield each.path, [one["name"] for one in parameters if one["name"] != "follow"]
    yield "/metrics", []
    yield "/openapi.json", []
    yield "/", []


CALLS = list(_calls())
VALUES = ("red", "blue", "web", "seattle", "site-down", "moved", "5001", "1", "0", "true", "*", "", "inner")


def seen(answer: str) -> list[str]:
    """What an answer has of Blue."""
    return [mark for mark in MARKS if mark in answer]


def test_reader_of_red_sees_nothing_of_blue_in_what_the_paths_say_by_themselves(tmp_path: Path) -> None:
    async def test(ask: Ask) -> None:
        for path, _ in CALLS:
            status, answer = await ask(path)
            assert status in {200, 403, 422}, path
            assert not seen(answer), (path, answer)
            if path not in {"/openapi.json", "/"}:
                assert "blue" not in answer, (path, answer)

    asked(tmp_path, READER, test)


def test_operator_sees_blue_at_those_paths_so_that_this_test_can_fail(tmp_path: Path) -> None:
    async def test(ask: Ask) -> None:
        for path in ("/v1/sites", "/v1/report", "/v1/traffic", "/v1/events", "/v1/overview", "/metrics"):
            status, answer = await ask(path)
            assert status == 200, answer
            assert seen(answer), path

    asked(tmp_path, OPERATOR, test)


def test_reader_of_red_sees_nothing_of_blue_whatever_they_ask_for(tmp_path: Path) -> None:
    chance = random.Random(4)
    queries = [(path, {name: value}) for path, names in CALLS for name in names for value in VALUES]
    for path, names in CALLS:
        for _ in range(40 if names else 0):
            some = chance.sample(names, chance.randint(1, len(names)))
            queries.append((path, {name: chance.choice(VALUES) for name in some}))

    async def test(ask: Ask) -> None:
        for path, query in queries:
            status, answer = await ask(f"{path}?{urlencode(query)}")
            assert status in {200, 400, 403, 422}, (path, query, answer)
            assert not seen(answer), (path, query, answer)

    asked(tmp_path, READER, test)
