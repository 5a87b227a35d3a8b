from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from gateway.http.principals import Credentials, Principal
from gateway.lookup.entries import Kind, NamedKey, Placement, RecordKey
from gateway.lookup.http import watch as watch_module
from gateway.lookup.http import watches
from gateway.lookup.http.watches import MOST_WATCHES_EACH
from gateway.lookup.network import apply
from gateway.lookup.store import Expect
from policies.model import ProviderHost
from policies.services import Role
from tests.gateway.lookup.http.watched import Line, changed, gone, served, told
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    HV2,
    HV3,
    NETWORK,
    OPERATOR,
    READER,
    TOKENS,
    WEB,
    Asker,
    Serving,
    Watcher,
    asking,
    ca,
    lookup_node,
    mac,
    pa,
    place,
    watching,
)


async def everything(watch: Watcher) -> None:
    """Read a watch to its end."""
    while True:
        await watch.line()


async def until_watches(ask: Asker, count: int) -> None:
    """Wait until a node has so many watches, which only the node knows."""
    for _ in range(500):
        if (await ask("GET", "/v1/status")).body["watches"] == count:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"there are never {count} watches")


def test_watch_begins_with_everything_between_resync_and_progress() -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        revision = await place(node, BLUE, "10.0.1.5", 6, "hv3")
        async with asking(node) as ask, watching(ask) as watch:
            lines = await watch.until_progress()
        assert lines[0] == {"type": "resync", "revision": revision}
        assert lines[-1] == {"type": "progress", "revision": revision}
        assert told(lines, "host") == [("put", "hv1"), ("put", "hv2"), ("put", "hv3")]
        assert told(lines, "gateway") == [("put", "edge-1")]
        assert sorted(told(lines, "tenant")) == [("put", "blue"), ("put", "red")]
        records = [line["value"] for line in lines if line.get("kind") == "record"]
        assert [(each["vsid"], each["ca"], each["host"]) for each in records] == [
            (WEB, "10.0.1.5", "hv1"),
            (BLUE, "10.0.1.5", "hv3"),
        ]

    served(test)


def test_changes_are_told_in_order_with_progress_behind_them() -> None:
    async def test(node: Serving) -> None:
        async with asking(node) as ask, watching(ask) as watch:
            await watch.until_progress()
            put = await place(node, WEB, "10.0.1.5", 5, "hv1")
            assert await watch.until_progress() == [
                {
                    "type": "put",
                    "kind": "record",
                    "revision": put,
                    "value": (await ask("GET", "/v1/records/5001/10.0.1.5")).body,
                },
                {"type": "progress", "revision": put},
            ]
            deleted = await gone(node, "10.0.1.5")
            assert (await watch.until_progress())[0] == {
                "type": "delete",
                "kind": "record",
                "revision": deleted,
                "value": {"vsid": WEB, "ca": "10.0.1.5"},
            }
            await node.store.put(
                NamedKey(Kind.HOST, "hv4"), ProviderHost("hv4", (pa("192.0.2.4"),), ()), Expect.ANY
            )
            assert told(await watch.until_progress(), "host") == [("put", "hv4")]
            await node.store.delete(NamedKey(Kind.HOST, "hv4"), Expect.ANY)
            assert told(await watch.until_progress(), "host") == [("delete", "hv4")]

    served(test)


def test_watch_goes_on_from_a_revision_without_a_gap_or_a_repetition() -> None:
    async def test(node: Serving) -> None:
        first = await place(node, WEB, "10.0.1.5", 5, "hv1")
        second = await place(node, WEB, "10.0.1.6", 6, "hv1")
        third = await gone(node, "10.0.1.5")
        async with asking(node) as ask:
            async with watching(ask, f"?from={first}") as watch:
                lines = await watch.until_progress()
                assert [(line["type"], line["revision"]) for line in lines] == [
                    ("put", second),
                    ("delete", third),
                    ("progress", third),
                ]
            async with watching(ask, f"?from={third}") as watch:
                assert await watch.until_progress() == [{"type": "progress", "revision": third}]

    served(test)


@pytest.mark.parametrize("resume", [0, 1 << 62])
def test_revision_that_is_too_old_or_has_not_come_yet_begins_with_resync(resume: int) -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        async with asking(node) as ask, watching(ask, f"?from={resume}") as watch:
            lines = await watch.until_progress()
            assert lines[0]["type"] == "resync"
            assert told(lines) == [("put", "10.0.1.5")]

    served(test)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?vsid=5001", {"10.0.1.5", "fd00:1::5"}),
        ("?tenant=red", {"10.0.1.5", "fd00:1::5", "10.0.2.5", "red"}),
        ("?tenant=red&vsid=5002", {"10.0.2.5"}),
        ("?tenant=blue&vsid=5002", set()),
        ("?tenant=nobody", set()),
        ("?kind=tenant", {"red", "blue"}),
        ("?kind=tenant&tenant=red", {"red"}),
        ("?kind=gateway", {"edge-1"}),
        ("?kind=record&tenant=blue", {"10.0.1.9"}),
    ],
)
def test_only_what_is_asked_for_is_told_at_first_and_later(query: str, expected: set[str]) -> None:
    placed = [
        (WEB, "10.0.1.5", "hv1"),
        (WEB, "fd00:1::5", "hv1"),
        (DB, "10.0.2.5", "hv1"),
        (BLUE, "10.0.1.9", "hv3"),
    ]

    def names(lines: list[Line]) -> set[str]:
        return {name for kind in Kind for _, name in told(lines, kind)}

    async def test(node: Serving) -> None:
        for number, (vsid, text, host) in enumerate(placed):
            await place(node, vsid, text, number, host)
        async with asking(node) as ask, watching(ask, query) as watch:
            assert names(await watch.until_progress()) == expected
            for number, (vsid, text, host) in enumerate(placed):
                await place(node, vsid, text, number + 100, host)
            records = {name for name in expected if name[0].isdigit() or ":" in name}
            seen: set[str] = set()
            while seen != records:
                seen |= names(await watch.until_progress())

    served(test)


def test_host_and_reader_are_told_of_their_tenants_alone() -> None:
    async def test(node: Serving) -> None:
        await place(node, BLUE, "10.0.1.9", 9, "hv3")
        async with (
            asking(node, HV1) as host,
            asking(node, READER) as reader,
            watching(host) as one,
            watching(reader) as other,
        ):
            lines = await one.until_progress()
            assert (told(lines), told(lines, "tenant")) == ([], [("put", "red")])
            assert told(lines, "host") == [("put", "hv1"), ("put", "hv2")]
            lines = await other.until_progress()
            assert [line["type"] for line in lines] == ["resync", "put", "progress"]
            assert lines[1]["value"]["sites"][0]["ike"] == {"local_id": "", "remote_id": ""}
            await place(node, BLUE, "10.0.1.8", 8, "hv3")
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            for watch in (one, other):
                assert told(await watch.until_progress()) == [("put", "10.0.1.5")]

    served(test)


def test_host_that_gains_or_loses_a_tenant_is_told_everything_anew() -> None:
    async def test(node: Serving) -> None:
        await place(node, BLUE, "10.0.1.9", 9, "hv3")
        async with asking(node, HV1) as ask, watching(ask) as watch:
            assert told(await watch.until_progress()) == []
            await apply(node.store, changed(NETWORK, "hv1", "red", "blue"))
            lines = await watch.until_progress()
            assert lines[0]["type"] == "resync"
            assert told(lines) == [("put", "10.0.1.9")]
            assert sorted(told(lines, "tenant")) == [("put", "blue"), ("put", "red")]
            await apply(node.store, changed(NETWORK, "hv1", "red"))
            while (lines := await watch.until_progress())[0]["type"] != "resync":
                pass
            assert (told(lines), told(lines, "tenant")) == ([], [("put", "red")])

    served(test)


def test_host_that_comes_to_share_a_tenant_is_shown_and_one_that_no_longer_does_is_gone() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, HV1) as ask, watching(ask) as watch:
            await watch.until_progress()
            await apply(node.store, changed(NETWORK, "hv3", "red", "blue"))
            assert ("put", "hv3") in told(await watch.until_progress(), "host")
            await apply(node.store, changed(NETWORK, "hv3", "blue"))
            lines: list[Line] = []
            while ("delete", "hv3") not in told(lines, "host"):
                lines += await watch.until_progress()

    served(test)


def test_host_that_asks_for_what_it_uses_is_told_of_its_own_and_of_what_it_is_taught() -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        for number in range(10, 20):
            await place(node, WEB, f"10.0.1.{number}", number, "hv2")
        async with (
            asking(node, HV1) as host,
            asking(node, GATEWAY) as gateway,
            watching(host, "?only=used") as watch,
        ):
            lines = await watch.until_progress()
            assert told(lines) == [("put", "10.0.1.5")]
            assert told(lines, "tenant") == [("put", "red")]
            hint = {"host": "hv1", "vsid": WEB, "ca": "10.0.1.11"}
            await gateway("POST", "/v1/hints", hint)
            assert told(await watch.until_progress()) == [("put", "10.0.1.11")]
            await place(node, WEB, "10.0.1.12", 112, "hv2")
            await place(node, WEB, "10.0.1.11", 111, "hv2")
            assert told(await watch.until_progress()) == [("put", "10.0.1.11")]
            await host("POST", "/v1/hints", {**hint, "forget": True})
            assert told(await watch.until_progress()) == [("delete", "10.0.1.11")]
            await place(node, WEB, "10.0.1.11", 113, "hv2")
            await place(node, WEB, "10.0.1.6", 6, "hv1")
            assert told(await watch.until_progress()) == [("put", "10.0.1.6")]

    served(test)


def test_what_is_forgotten_goes_no_later_than_it_came_so_that_it_can_be_taught_again() -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.11", 11, "hv2")
        hint = {"host": "hv1", "vsid": WEB, "ca": "10.0.1.11"}
        async with asking(node, HV1) as host, watching(host, "?only=used") as watch:
            await watch.until_progress()
            revisions = []
            for forget in (False, True, False):
                await host("POST", "/v1/hints", {**hint, "forget": forget})
                lines = [line for line in await watch.until_progress() if line["type"] != "progress"]
                revisions.append((lines[0]["type"], lines[0]["revision"]))
            assert [kind for kind, _ in revisions] == ["put", "delete", "put"]
            assert len({revision for _, revision in revisions}) == 1

    served(test)


def test_reader_who_is_ahead_waits_and_is_sent_away_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "CATCHING_UP", 0.05)

    async def test(node: Serving) -> None:
        async with asking(node, OPERATOR) as ask:
            node.store.go_away("it is being moved")
            while node.replica.stale_since is None:  # noqa: ASYNC110 - it wakes nobody for that
                await asyncio.sleep(0.01)
            answer = await ask("GET", "/v1/watch?from=999999")
            assert answer.status == 503
            assert "behind" in answer.body["detail"]

    served(test)


@pytest.mark.parametrize(
    "now_known",
    [
        pytest.param({}, id="removed"),
        pytest.param({TOKENS["dashboard"]: Principal("dashboard", Role.READER, frozenset())}, id="sees less"),
        pytest.param({"another-token-of-dashboard": READER}, id="another token"),
    ],
)
def test_watch_ends_when_what_its_reader_has_shown_no_longer_says_who_that_is(
    now_known: dict[str, Principal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "TICK_SECONDS", 0.01)

    async def test(node: Serving) -> None:
        async with (
            asking(node, READER) as reader,
            asking(node, HV1) as host,
            watching(reader) as one,
            watching(host) as other,
        ):
            await one.until_progress()
            await other.until_progress()
            tokens = {TOKENS["hv1"]: HV1, **now_known}
            known = [(token.encode(), principal) for token, principal in tokens.items()]
            node.door.credentials = Credentials(known, {})
            with pytest.raises(aiohttp.ClientPayloadError):
                await everything(one)
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            assert told(await other.until_progress()) == [("put", "10.0.1.5")]

    served(test)


def test_watchers_are_sent_away_when_the_store_has_been_away_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, seconds in (("TICK_SECONDS", 0.01), ("STALE_SECONDS", 0.05), ("STAY_SECONDS", 0.5)):
        monkeypatch.setattr(watches, name, seconds)

    async def test(node: Serving) -> None:
        clock = asyncio.get_running_loop().time
        async with asking(node, OPERATOR) as ask:
            node.store.go_away("it is being moved")
            while node.replica.stale_since is None:  # noqa: ASYNC110 - it wakes nobody for that
                await asyncio.sleep(0.01)
            began = clock()
            async with watching(ask) as watch:
                await watch.until_progress()  # it may stay for a while, since perhaps no node has the store
                with pytest.raises(aiohttp.ClientPayloadError):
                    await everything(watch)
            assert clock() - began > 0.4

    served(test)


def test_host_is_told_where_its_vm_has_gone_and_goes_on_to() -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        async with asking(node, HV1) as ask, watching(ask, "?only=used") as watch:
            await watch.until_progress()
            await place(node, WEB, "10.0.1.5", 5, "hv2")
            assert (await watch.until_progress())[0]["value"]["host"] == "hv2"
            await place(node, WEB, "10.0.1.5", 6, "hv2")
            assert (await watch.until_progress())[0]["value"]["mac"] == str(mac(6))
            await gone(node, "10.0.1.5")
            assert told(await watch.until_progress()) == [("delete", "10.0.1.5")]

    served(test)


def test_what_a_host_was_taught_before_is_told_when_it_comes_back() -> None:
    async def test(node: Serving) -> None:
        revision = await place(node, WEB, "10.0.1.11", 11, "hv2")
        async with asking(node, HV1) as host, asking(node, GATEWAY) as gateway:
            await gateway("POST", "/v1/hints", [{"host": "hv1", "vsid": WEB, "ca": "10.0.1.11"}])
            async with watching(host, f"?only=used&from={revision}") as watch:
                lines = await watch.until_progress()
                assert lines[0]["type"] == "resync"
                assert told(lines) == [("put", "10.0.1.11")]

    served(test)


@pytest.mark.parametrize("principal", [READER, GATEWAY, OPERATOR], ids=lambda each: each.role)
def test_only_hosts_have_what_they_use(principal: Any) -> None:
    async def test(node: Serving) -> None:
        async with asking(node, principal) as ask:
            assert (await ask("GET", "/v1/watch?only=used")).status == 400

    served(test)


def test_quiet_watch_has_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(watches, "HEARTBEAT_SECONDS", 0.03)

    async def test(node: Serving) -> None:
        async with asking(node) as ask, watching(ask) as watch:
            await watch.until_progress()
            for _ in range(3):
                assert await watch.line() == {"type": "progress", "revision": node.replica.revision}

    served(test)


def test_watch_that_falls_out_of_the_history_is_closed_and_comes_back_with_a_resync() -> None:
    async def test(node: Serving) -> None:
        async with asking(node) as ask:
            async with watching(ask) as watch:
                lines = await watch.until_progress()
                # One turn of the loop is not enough for a watch to see all of these.
                for number in range(200):
                    await node.store.put(
                        NamedKey(Kind.HOST, f"h{number}"),
                        ProviderHost(f"h{number}", (pa("192.0.2.4"),), ()),
                        Expect.ANY,
                    )
                with pytest.raises((EOFError, OSError, aiohttp.ClientError)):
                    await everything(watch)
            async with watching(ask, f"?from={lines[-1]['revision']}") as watch:
                lines = await watch.until_progress()
                assert lines[0]["type"] == "resync"
                assert len(told(lines, "host")) == 203

    served(test, history=16)


def test_reader_that_does_not_read_is_cut_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(watches, "BLOCKED_SECONDS", 0.2)

    async def test(node: Serving) -> None:
        async with asking(node) as ask, watching(ask, "?kind=host") as watch:
            await watch.until_progress()
            # Far more than the kernel keeps for one who does not read.
            for number in range(40_000):
                key = RecordKey(WEB, ca(f"fd00:1::{number + 16:x}"))
                await node.store.put(key, Placement(mac(number), pa("198.51.100.11"), "hv1"), Expect.ANY)
            slow = socket.create_connection(("127.0.0.1", node.port))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            authorization = f"Authorization: Bearer {TOKENS['op']}"
            slow.sendall(f"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n\r\n".encode())
            await until_watches(ask, 2)
            await until_watches(ask, 1)
            await node.store.put(
                NamedKey(Kind.HOST, "h"), ProviderHost("h", (pa("192.0.2.4"),), ()), Expect.ANY
            )
            while ("put", "h") not in told(await watch.until_progress(), "host"):
                pass
            slow.close()

    served(test)


def test_host_has_so_many_watches_and_no_more() -> None:
    async def test(node: Serving) -> None:
        async with asking(node, HV1) as ask, asking(node, HV2) as another:
            held = [
                await ask.session.get(f"{ask.url}/v1/watch", headers=ask.headers)
                for _ in range(MOST_WATCHES_EACH)
            ]
            assert (await ask("GET", "/v1/watch")).status == 429
            async with watching(another) as watch:
                await watch.until_progress()
            for each in held:
                each.close()

    served(test)


def test_node_has_so_many_watches_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MOST_WATCHES", 2)

    async def test(node: Serving) -> None:
        async with asking(node) as ask, watching(ask), watching(ask):
            answer = await ask("GET", "/v1/watch")
            assert answer.status == 503
            assert answer.headers["Retry-After"]

    served(test)


def test_host_that_watches_is_a_node_and_says_what_it_has_learned() -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        async with (
            asking(node) as op,
            asking(node, HV1) as one,
            asking(node, HV2) as two,
            watching(one) as old,
            watching(two) as new,
        ):
            for watch in (old, new):
                await watch.until_progress()

            async def learn() -> None:
                for ask, watch in ((one, old), (two, new)):
                    revision = (await watch.until_progress())[-1]["revision"]
                    assert (await ask("POST", "/v1/acknowledgements", {"revision": revision})).status == 204

            claim = {
                "vsid": WEB,
                "mac": str(mac(5)),
                "pa": "198.51.100.12",
                "mode": "orchestrate",
                "wait_ms": 5000,
            }
            learning = asyncio.create_task(learn())
            answer = await op("POST", "/v1/claims", claim)
            await learning
            assert answer.body["learned"] == {"hv1": True, "hv2": True}
            nodes = (await op("GET", "/v1/nodes")).body
            revision = node.replica.revision
            assert [(each["name"], each["revision"], each["behind"]) for each in nodes] == [
                ("hv1", revision, 0.0),
                ("hv2", revision, 0.0),
            ]
            assert [each["name"] for each in (await one("GET", "/v1/nodes")).body] == ["hv1"]
            convergence = (await op("GET", "/v1/status")).body["convergence"]
            assert convergence["moves"] == 1
            assert 0 < convergence["p50_ms"] < 5000

    served(test)


def test_move_is_not_waited_for_from_a_host_that_does_not_see_it() -> None:
    async def test(node: Serving) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        async with asking(node) as op, asking(node, HV3) as blue, watching(blue) as watch:
            await watch.until_progress()
            claim = {
                "vsid": WEB,
                "mac": str(mac(5)),
                "pa": "198.51.100.12",
                "wait": ["hv3"],
                "wait_ms": 10_000,
            }
            assert (await op("POST", "/v1/claims", claim)).body["learned"] == {"hv3": True}

    served(test)


def test_snapshot_with_changes_meanwhile_ends_with_what_is_true_then() -> None:
    async def test(node: Serving) -> None:
        numbers = range(3000)
        for number in numbers:
            await place(node, WEB, f"fd00:1::{number + 16:x}", number, "hv1")
        async with asking(node) as ask, watching(ask, "?vsid=5001") as watch:

            async def change() -> None:
                for number in range(0, 3000, 7):
                    await gone(node, f"fd00:1::{number + 16:x}")
                    await place(node, WEB, f"fd00:1::{number + 17:x}", number + 1, "hv2")

            changing = asyncio.create_task(change())
            contents: dict[str, Line] = {}
            done = 0
            while not changing.done() or done < node.replica.revision:
                for line in await watch.until_progress():
                    done = line["revision"] if line["type"] == "progress" else done
                    if line["type"] == "put":
                        before = contents.get(line["value"]["ca"])
                        assert before is None or before["revision"] <= line["revision"]
                        contents[line["value"]["ca"]] = line["value"]
                    elif line["type"] == "delete":
                        contents.pop(line["value"]["ca"], None)
            await changing
        true = {str(each.ca): each.host for each in node.replica.records(WEB, None, 10_000)}
        assert {text: each["host"] for text, each in contents.items()} == true

    served(test)


def test_service_that_stops_ends_its_watches_at_once() -> None:
    async def main() -> None:
        async with lookup_node() as node:
            session = aiohttp.ClientSession()
            headers = {"Authorization": f"Bearer {TOKENS['op']}"}
            response = await session.get(f"http://127.0.0.1:{node.port}/v1/watch", headers=headers)
            await Watcher(response).until_progress()
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1
        assert await response.content.read() == b""
        await session.close()

    asyncio.run(main())
