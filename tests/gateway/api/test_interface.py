from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import aiohttp
import msgspec
import pytest
import trio

from gateway.api import operating
from gateway.http.headers import SAFE_HEADERS
from policies.errors import ConfigurationError
from tests.gateway.api.appliance import OPERATOR, READER, TOKENS, Served, asked
from tests.gateway.lookup.http.test_service import is_problem
from tests.gateway.lookup.serving import Asker

READ = ("/v1/status", "/v1/sites", "/v1/report", "/v1/events")


def test_what_the_command_line_can_ask_is_answered_by_http() -> None:
    async def test(_node: Served, ask: Asker) -> None:
        assert (await ask("GET", "/v1/status")).body == {"name": "edge-1", "asker": "local"}
        assert (await ask("GET", "/v1/report")).body["node"] == "edge-1"
        assert (await ask("GET", "/v1/events?last=2")).body == [
            {"number": 0, "text": ""},
            {"number": 1, "text": ""},
        ]

    asked(test)


def test_each_configured_site_is_listed_with_how_it_is_where_it_is_dialled_here() -> None:
    async def test(_node: Served, ask: Asker) -> None:
        sites = (await ask("GET", "/v1/sites")).body
        assert [(each["tenant"], each["name"], each["gateway"]) for each in sites] == [
            ("red", "seattle", "edge-1"),
            ("blue", "berlin", "edge-1"),
            ("blue", "paris", "edge-2"),
        ]
        assert [each["status"] and each["status"]["state"] for each in sites] == ["up", "up", None]

    asked(test)


def test_tenants_are_listed_with_what_is_theirs() -> None:
    async def test(_node: Served, ask: Asker) -> None:
        tenants = (await ask("GET", "/v1/tenants")).body
        assert [each["name"] for each in tenants] == ["red", "blue"]
        assert tenants[0]["sites"][0]["ike"]["local_id"]

    asked(test)


def test_reader_is_not_told_by_what_a_site_is_known_nor_where_its_secret_lies(tmp_path: Path) -> None:
    async def test(_node: Served, ask: Asker) -> None:
        (tenant,) = (await ask("GET", "/v1/tenants")).body
        (site,) = (await ask("GET", "/v1/sites")).body
        for each in (site, *tenant["sites"]):
            assert each["ike"] == {"local_id": "", "remote_id": ""}

    asked(test, tmp_path, name=READER)


def test_command_that_this_appliance_does_not_have_is_not_there() -> None:
    async def test(_node: Served, ask: Asker) -> None:
        assert is_problem(await ask("GET", "/v1/capture"), 404)

    asked(test)


def test_body_is_the_arguments_and_may_be_missing() -> None:
    async def test(node: Served, ask: Asker) -> None:
        assert (await ask("POST", "/v1/reload", {"confirm": 60})).status == 200
        assert (await ask("POST", "/v1/reload", {})).status == 200
        assert (await ask("POST", "/v1/reload")).status == 200
        assert node.appliance.confirms == [60, None, None]

    asked(test)


def test_whatever_is_wrong_with_what_is_asked_is_told_with_its_place() -> None:
    async def test(node: Served, ask: Asker) -> None:
        answer = await ask("POST", "/v1/reload", {"confirm": 0})
        assert is_problem(answer, 422, "tenant[red]: is wrong")
        assert answer.body["problems"] == [
            {"path": "tenant[red]", "message": "is wrong"},
            {"path": "site", "message": "is wrong, too"},
        ]
        assert is_problem(await ask("POST", "/v1/reload", {"confirm": "soon"}), 422, "confirm")
        assert is_problem(await ask("POST", "/v1/reload", {"unknown": 1}), 422, "unknown")
        assert is_problem(await ask("POST", "/v1/reload", {"file": "/etc/shadow"}), 400, "file")
        assert is_problem(await ask("POST", "/v1/reload", [1]), 400)
        assert is_problem(await ask("POST", "/v1/reload", b"{", Content_Type="application/json"), 400)
        assert is_problem(await ask("POST", "/v1/reload", b"{}", Content_Type="text/plain"), 415)
        assert is_problem(await ask("GET", "/v1/events?unknown=1"), 400, "unknown")
        assert is_problem(await ask("GET", "/v1/events?last=all"), 422, "last")
        assert is_problem(await ask("GET", "/v1/events?last=1&last=2"), 400, "twice")
        assert is_problem(await ask("GET", "/v1/status?x=1"), 400, "x")
        assert is_problem(await ask("DELETE", "/v1/status"), 405)
        assert node.appliance.confirms == []

    asked(test)


def test_fault_of_a_command_is_a_problem_that_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def test(_node: Served, ask: Asker) -> None:
        answer = await ask("GET", "/v1/moves")
        assert is_problem(answer, 500)
        assert "secret" not in str(answer.body)

    asked(test)
    assert "GET /v1/moves failed" in caplog.text


def test_reader_reads_what_is_its_tenants_and_changes_nothing(tmp_path: Path) -> None:
    async def test(node: Served, ask: Asker) -> None:
        assert [each["tenant"] for each in (await ask("GET", "/v1/sites")).body] == ["red"]
        assert (await ask("GET", "/v1/status")).body["asker"] == READER
        assert is_problem(await ask("GET", "/v1/report"), 403, "operators")
        assert is_problem(await ask("POST", "/v1/reload", {"confirm": 60}), 403)
        assert is_problem(await ask("GET", "/v1/events?tenant=blue"), 403)
        assert is_problem(await ask("GET", "/v1/events?tenant=blue&follow=true"), 403)
        assert node.appliance.confirms == []

    asked(test, tmp_path, name=READER)


def test_nobody_is_told_anything_without_a_credential(tmp_path: Path) -> None:
    async def test(_node: Served, ask: Asker) -> None:
        for path in (*READ, "/metrics"):
            answer = await ask("GET", path)
            assert is_problem(answer, 401)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert is_problem(await ask("POST", "/v1/reload", {}), 401)
        for path in ("/healthz", "/readyz", "/openapi.json", "/"):
            assert (await ask("GET", path)).status == 200

    asked(test, tmp_path)


def test_tokens_change_with_a_reload_and_back_with_its_undoing(tmp_path: Path) -> None:
    async def main(node: Served, ask: Asker) -> None:
        headers = ask.headers
        wanted = msgspec.structs.replace(node.settings, credentials=node.settings.credentials[1:])

        class Changed:
            api = wanted

        async def take() -> object:
            return await node.asked.take(Changed)  # type: ignore[arg-type]

        assert (await ask("GET", "/v1/status")).status == 200
        undo = await node.loop.ask(take)
        assert is_problem(await ask("GET", "/v1/status"), 401)
        await node.loop.ask(undo)  # type: ignore[arg-type]
        assert (await ask("GET", "/v1/status")).status == 200
        (tmp_path / READER).unlink()
        with pytest.raises(ConfigurationError, match=r"api\.token"):
            await node.loop.ask(take)
        assert (await ask("GET", "/v1/status")).status == 200
        assert headers is ask.headers

    asked(main, tmp_path, name=OPERATOR)


def test_every_answer_forbids_a_browser_to_do_anything_with_it() -> None:
    async def test(_node: Served, ask: Asker) -> None:
        for path in (*READ, "/nothing", "/v1/moves", "/openapi.json", "/healthz"):
            headers = (await ask("GET", path)).headers
            assert {name: headers[name] for name in SAFE_HEADERS} == SAFE_HEADERS, path
            assert "Access-Control-Allow-Origin" not in headers
        async with ask.session.get(f"{ask.url}/v1/events?follow=true") as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"

    asked(test)


def test_another_sites_page_may_not_reload() -> None:
    async def test(node: Served, ask: Asker) -> None:
        for origin in ("http://evil.example", "null", "http://["):
            assert is_problem(await ask("POST", "/v1/reload", {}, Origin=origin), 403)
        assert node.appliance.confirms == []

    asked(test)


def test_follower_is_told_as_it_happens_and_its_leaving_ends_what_is_done_for_it() -> None:
    async def test(node: Served, ask: Asker) -> None:
        async with ask.session.get(f"{ask.url}/v1/events?follow=true&last=3") as response:
            assert response.headers["Content-Type"] == "application/jsonl"
            lines = [line async for line in _lines(response, 3)]
            assert [msgspec.json.decode(line)["number"] for line in lines] == [0, 1, 2]
            assert not node.appliance.ended.is_set()
            response.close()
        await node.loop.ask(node.appliance.ended.wait)

    asked(test)


def test_follower_who_is_told_nothing_yet_knows_that_it_follows_and_sees_signs_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.api.streams.SOON", 0.01)
    monkeypatch.setattr("gateway.api.streams.TICK_SECONDS", 0.01)

    async def test(_node: Served, ask: Asker) -> None:
        async with ask.session.get(f"{ask.url}/v1/events?follow=true&last=0") as response:
            assert response.status == 200
            assert [await response.content.readline() for _ in range(3)] == [b"\n"] * 3

    asked(test)


def test_appliance_that_stops_waits_for_no_follower() -> None:
    async def test(node: Served, _ask: Asker) -> None:
        held.append(socket.create_connection(("127.0.0.1", node.port)))
        held[0].sendall(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.1)
        assert held[0].recv(4) == b"HTTP"
        began.append(time.monotonic())

    held: list[socket.socket] = []
    began: list[float] = []
    asked(test)
    assert time.monotonic() - began[0] < 1.5
    held[0].close()


def test_what_is_wrong_with_what_is_to_be_followed_is_a_problem() -> None:
    async def test(_node: Served, ask: Asker) -> None:
        assert is_problem(await ask("GET", "/v1/events?follow=true&tenant=nobody"), 422, "no nobody")

    asked(test)


def test_follower_whose_token_is_taken_away_is_told_nothing_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gateway.api.streams.TICK_SECONDS", 0.01)

    async def test(node: Served, ask: Asker) -> None:
        url = f"{ask.url}/v1/events?follow=true&last=0"
        async with ask.session.get(url, headers=ask.headers) as response:
            assert await response.content.readline() == b"\n"

            class Changed:
                api = msgspec.structs.replace(node.settings, credentials=node.settings.credentials[1:])

            async def take() -> None:
                await node.asked.take(Changed)  # type: ignore[arg-type]

            await node.loop.ask(take)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        await node.loop.ask(node.appliance.ended.wait)

    asked(test, tmp_path, name=OPERATOR)


def test_slow_follower_slows_down_what_tells_it_and_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.connections.BLOCKED_SECONDS", 0.3)

    async def test(node: Served, ask: Asker) -> None:
        node.appliance.text = "x" * 10_000
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port, limit=1024)
        writer.write(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.2)
        told = node.appliance.told
        await asyncio.sleep(0.05)
        assert node.appliance.told == told, "it goes on though nobody reads"
        # What was held at all: the queue, and the sockets' buffers.
        assert told < 2000
        await node.loop.ask(node.appliance.ended.wait)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert reader is not None

    asked(test)


def test_one_principal_follows_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operating, "MOST_STREAMS_EACH", 2)

    async def test(_node: Served, ask: Asker) -> None:
        url = f"{ask.url}/v1/events?follow=true"
        async with ask.session.get(url), ask.session.get(url):
            answer = await ask("GET", "/v1/events?follow=true")
            assert is_problem(answer, 429, "2 already")
            assert answer.headers["Retry-After"]
        await asyncio.sleep(0.05)
        async with ask.session.get(url) as response:
            assert response.status == 200

    asked(test)


def test_head_is_answered_as_get_without_a_body(tmp_path: Path) -> None:
    async def test(node: Served, ask: Asker) -> None:
        for path in (*READ, "/v1/events?follow=true"):
            answer = await ask("HEAD", path)
            assert (answer.status, answer.body) == (200, b"")
        assert not node.appliance.told or node.appliance.ended.is_set()

    asked(test, tmp_path, name=OPERATOR)


def test_request_that_is_cancelled_ends_what_trio_does_for_it() -> None:
    async def test(node: Served, ask: Asker) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), ask.session.get(f"{ask.url}/v1/events?follow=true") as response:
                await response.read()
        await node.loop.ask(node.appliance.ended.wait)

    asked(test)


def test_tokens_are_in_no_answer_and_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(_node: Served, ask: Asker) -> None:
        said = [str((await ask("GET", path)).body) for path in READ]
        ask.headers["Authorization"] = "Bearer wrong-but-nearly-a-token"
        said.append(str((await ask("GET", "/v1/status")).body))
        for token in (*TOKENS.values(), "wrong-but-nearly"):
            assert token not in "".join(said)

    asked(test, tmp_path, name=OPERATOR)
    for token in (*TOKENS.values(), "wrong-but-nearly"):
        assert token not in caplog.text


def test_listener_that_cannot_be_opened_is_said_with_its_key() -> None:
    async def main() -> None:
        from tests.gateway.api.appliance import served

        async with served() as node:
            settings = msgspec.structs.replace(node.settings, listen=f"127.0.0.1:{node.port}")
            with pytest.raises(ConfigurationError, match=r"api\.listen"):
                await node.asked.run(settings)

    trio.run(main)


async def _lines(response: aiohttp.ClientResponse, count: int):  # type: ignore[no-untyped-def]
    while count:
        line = await response.content.readline()
        if line.strip():
            count -= 1
            yield line
