"""The client against nodes that answer, refuse, lag, lie and die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.lookup.answers import Hint
from gateway.lookup.claims import Mode, Reason, Refused
from gateway.lookup.client import LookupClient
from gateway.lookup.client import copies as copies_module
from gateway.lookup.client import nodes as nodes_module
from gateway.lookup.entries import Event, Kind, Progress, RecordKey, Reset, Stored
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.store import Conflict, Expect, StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError
from policies.model import LookupRecord, Network, ProviderHost, Translation
from policies.services import LookupAccess
from tests.gateway.lookup.client.fake_node import Answer, FakeNode, hang_up, lines, never, running, says

WEB = Vsid(5001)
CA = CustomerAddress.parse("10.0.1.5")
MAC = MacAddress.parse("02:00:00:00:01:05")
PA = ProviderAddress.parse("198.51.100.11")
FORM: dict[str, Any] = {
    "vsid": 5001,
    "ca": "10.0.1.5",
    "mac": "02:00:00:00:01:05",
    "pa": "198.51.100.11",
    "host": "hv1",
    "translation": "encap",
    "epoch": 7,
    "revision": 1234,
}
RECORD = LookupRecord(WEB, CA, MAC, PA, "hv1", Translation.ENCAP, 7, 1234)
MOVED = {**FORM, "pa": "203.0.113.12", "host": "hv2", "epoch": 8, "revision": 1300}


def resolved(*records: object, revision: int = 1234, stale: float = 0.0) -> dict[str, object]:
    return {"records": list(records), "revision": revision, "stale_seconds": stale}


def put_line(form: dict[str, Any]) -> bytes:
    return line("put", form["revision"], kind="record", value=form)


def line(kind_of_event: str, revision: int, **more: object) -> bytes:
    import msgspec

    return msgspec.json.encode({"type": kind_of_event, "revision": revision, **more}) + b"\n"


def asking(
    *answers: Answer, body: Callable[[LookupClient, list[FakeNode]], Awaitable[None]], **settings: Any
) -> None:
    """Run a body with a client of nodes that answer so."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            fakes = [await stack.enter_async_context(running(answer)) for answer in answers]
            access = LookupAccess(tuple(fake.url for fake in fakes), **settings)
            client = await stack.enter_async_context(LookupClient(access))
            await body(client, fakes)

    asyncio.run(main())


def test_a_record_is_resolved_and_remembered() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.resolve(WEB, CA) == RECORD
        assert await client.resolve(WEB, CA) == RECORD
        assert fakes[0].asked == [("POST", "/v1/resolve")]
        assert fakes[0].bodies == [[{"vsid": 5001, "ca": "10.0.1.5"}]]

    asking(says(resolved(FORM)), body=body)


def test_what_has_no_record_is_none() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.resolve(WEB, CA) is None

    asking(says(resolved(None)), body=body)


def test_many_records_are_asked_for_a_thousand_at_a_time() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        return web.json_response(resolved(*[{**FORM, "ca": each["ca"]} for each in wanted]))

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        addresses = [CustomerAddress(b"\x0a\x00" + number.to_bytes(2)) for number in range(2500)]
        found = await client.resolve_many([(WEB, ca) for ca in addresses])
        assert [record.ca for record in found if record] == addresses
        assert [len(each) for each in fakes[0].bodies] == [1000, 1000, 500]

    asking(answer, body=body)


def test_a_first_look_is_not_held_up_by_a_node_that_does_not_answer() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        began = time.monotonic()
        assert await client.resolve(WEB, CA) == RECORD
        assert time.monotonic() - began < 1.0
        async with asyncio.timeout(5):
            while len(fakes[0].asked) > fakes[0].cancelled:  # noqa: ASYNC110 - a connection is closed
                await asyncio.sleep(0.005)

    asking(never, says(resolved(FORM)), body=body)


def test_a_first_look_prefers_the_node_that_has_a_record_to_one_that_has_none() -> None:
    async def later(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await says(resolved(FORM))(request)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.resolve(WEB, CA) == RECORD

    asking(says(resolved(None)), later, body=body)


def test_that_there_is_no_record_is_not_held_up_by_a_node_that_does_not_answer() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        began = time.monotonic()
        assert await client.resolve(WEB, CA) is None
        assert time.monotonic() - began < 2.0

    asking(never, says(resolved(None)), body=body)


def test_a_node_that_failed_lately_is_not_waited_for_where_another_knows_of_no_record() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.status()
        fakes[0].answer = never
        asked = len(fakes[0].asked)
        assert await client.resolve(WEB, CA) is None
        assert len(fakes[0].asked) == asked

    asking(hang_up, says(resolved(None)), body=body)


def test_a_node_that_is_cut_off_from_its_store_is_believed_only_if_no_other_answers() -> None:
    stale = says(resolved(FORM, stale=60.0))

    async def both(client: LookupClient, fakes: list[FakeNode]) -> None:
        found = await client.resolve(WEB, CA)
        assert found is not None
        assert found.host == "hv2"

    asking(stale, says(resolved(MOVED)), body=both)

    async def alone(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.resolve(WEB, CA) == RECORD

    asking(stale, body=alone)


@pytest.mark.parametrize(
    "first",
    [hang_up, says({"title": "no"}, 503), says({"title": "bug"}, 500)],
    ids=["hangs up", "503", "500"],
)
def test_another_node_is_asked_where_one_fails_and_is_stayed_with(first: Answer) -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert (await client.status())["revision"] == 1
        asked = len(fakes[0].asked)
        assert (await client.status())["revision"] == 1
        assert len(fakes[0].asked) == asked
        assert len(fakes[1].asked) == 2

    asking(first, says({"revision": 1}), body=body)


def test_a_node_that_does_not_answer_in_time_is_passed_over() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert (await client._nodes.ask("GET", "/v1/status", patience=0.05)).status == 200

    asking(never, says({}), body=body)


def test_where_no_node_answers_each_ones_reason_is_told() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(StoreUnavailable, match=r"etcd is away.*127\.0\.0\.1"):
            await client.status()

    asking(says({"title": "Service Unavailable", "detail": "etcd is away"}, 503), hang_up, body=body)


def test_a_node_that_failed_is_asked_again_once_no_other_can() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.status()
        fakes[0].answer, fakes[1].answer = says({"revision": 2}), hang_up
        assert (await client.status())["revision"] == 2

    asking(hang_up, says({}), body=body)


def test_a_connection_from_before_a_nodes_restart_is_no_failure() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            async with running(says({"revision": 1})) as first:
                client = await stack.enter_async_context(LookupClient(LookupAccess((first.url,))))
                await client.status()
            async with running(says(resolved(FORM)), int(first.url.rpartition(":")[2])):
                assert await client.resolve(WEB, CA) == RECORD

    asyncio.run(main())


def test_records_are_paged_through() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        rest = None if "continue" in request.query else "5001/10.0.1.5"
        return web.json_response({"records": [FORM], "continue": rest, "revision": 9})

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        async with aclosing(client.records(tenant="red")) as records:
            assert [each async for each in records] == [RECORD, RECORD]
        assert [path for _, path in fakes[0].asked] == [
            "/v1/records?tenant=red&limit=1000",
            "/v1/records?tenant=red&limit=1000&continue=5001/10.0.1.5",
        ]

    asking(answer, body=body)


def test_a_write_says_what_it_expects() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        place = {"mac": MAC, "pa": PA, "host": "hv1"}
        assert await client.put(WEB, CA, **place, expected=Expect.ABSENT) == RECORD  # type: ignore[arg-type]
        await client.put(WEB, CA, **place, expected=7)  # type: ignore[arg-type]
        await client.put(WEB, CA, **place, expected=Expect.ANY)  # type: ignore[arg-type]
        assert fakes[0].headers[0]["If-None-Match"] == "*"
        assert fakes[0].headers[1]["If-Match"] == '"7"'
        assert fakes[0].headers[2]["If-Match"] == "*"
        assert fakes[0].bodies[0] == {"mac": str(MAC), "pa": str(PA), "host": "hv1"}

    asking(says(FORM), body=body)


CONFLICT = says({"title": "Precondition Failed", "detail": "it has moved", "current": FORM}, 412)


def test_a_failed_precondition_tells_the_present_record() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(Conflict) as caught:
            await client.put(WEB, CA, mac=MAC, pa=PA, host="hv1", expected=3)
        assert caught.value.current is not None
        assert caught.value.current.record == RECORD

    asking(CONFLICT, body=body)


def test_a_write_that_was_carried_out_but_not_answered_is_no_conflict_when_repeated() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.put(WEB, CA, mac=MAC, pa=PA, host="hv1", expected=6) == RECORD
        fakes[1].answer, fakes[0].answer = hang_up, CONFLICT
        with pytest.raises(Conflict):  # what is there is another's
            await client.put(WEB, CA, mac=MAC, pa=PA, host="hv9", expected=6)

    asking(hang_up, CONFLICT, body=body)


def test_deleting_says_whether_there_was_one() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.delete(WEB, CA, 7)
        fakes[0].answer = says({"title": "Not Found"}, 404)
        assert not await client.delete(WEB, CA)
        fakes[0].answer = CONFLICT
        with pytest.raises(Conflict):
            await client.delete(WEB, CA, 6)

    async def gone(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    asking(gone, body=body)


def test_a_claim_names_what_it_is_for_and_returns_who_has_learned() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        answer = await client.claim(WEB, MAC, PA, Mode.ORCHESTRATE, (CA,), "hv1", ("hv2",), 0.5)
        assert answer.records == (RECORD,)
        assert answer.learned == {"hv2": True}
        assert fakes[0].bodies[0] == {
            "vsid": 5001,
            "mac": str(MAC),
            "pa": str(PA),
            "mode": "orchestrate",
            "addresses": ["10.0.1.5"],
            "host": "hv1",
            "wait": ["hv2"],
            "wait_ms": 500,
        }

    asking(says({"records": [FORM], "learned": {"hv2": True}}), body=body)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refused_claim_tells_why_and_what_is_in_its_way(reason: Reason) -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(Refused) as caught:
            await client.claim(WEB, MAC, PA)
        assert caught.value.reason is reason
        assert caught.value.current is not None
        assert caught.value.current.record == RECORD

    asking(says({"title": "Conflict", "reason": reason.value, "current": FORM}, 409), body=body)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Forbidden), (403, Forbidden), (400, Unacceptable), (413, Unacceptable)]
)
def test_a_refusal_is_told_in_the_services_words_and_no_other_node_is_asked(
    status: int, kind: type[Exception]
) -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(kind, match="hv9 is not yours"):
            await client.unfreeze(WEB, CA)
        assert not fakes[1].asked

    asking(says({"title": "No", "detail": "hv9 is not yours"}, status), says({}), body=body)


def test_hints_are_taken_if_one_node_takes_them() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.hint("hv1", WEB, CA)
        assert [len(fake.asked) for fake in fakes] == [1, 1, 1]
        fakes[1].answer = fakes[0].answer
        with pytest.raises(Forbidden, match="hv1 is not yours"):
            await client.hint("hv1", WEB, CA)

    refusal = says({"title": "No", "detail": "hv1 is not yours"}, 403)
    asking(refusal, says({}, 202), says({"title": "away"}, 503), body=body)


def test_hints_that_no_node_takes_have_failed() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(StoreUnavailable, match=r"away.*away"):
            await client.hint("hv1", WEB, CA)
        fakes[1].answer = says({}, 202)
        await client.hint("hv1", WEB, CA)

    asking(says({"title": "away"}, 503), says({"title": "away"}, 503), body=body)


def test_node_that_says_nothing_holds_up_hints_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "OTHERS_PATIENCE", 0.05)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        for _ in range(3):
            await client.hint("hv1", WEB, CA)
        assert [len(fake.asked) for fake in fakes] == [1, 3]

    asking(never, says({}, 202), body=body)


def test_acknowledgements_go_to_the_node_of_the_watch_first_and_to_the_others_besides() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        async with aclosing(client.watch()) as events:
            await anext(events)
            fakes[0].answer = says({}, 204)
            await client.acknowledge(7)
            assert fakes[1].bodies[-1] == {"revision": 7}
            await until(lambda: fakes[2].bodies == [{"revision": 7}])
            await until(lambda: {"revision": 7} in fakes[0].bodies)

    watched = lines(line("resync", 7), line("progress", 7), then=never)
    asking(says({"title": "away"}, 503), watched_and(watched, says({}, 204)), says({}, 204), body=body)


def test_nodes_that_say_nothing_or_are_down_do_not_hold_up_acknowledgements() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        began = time.monotonic()
        for revision in range(50):
            await client.acknowledge(revision)
        assert time.monotonic() - began < 2
        assert [each["revision"] for each in fakes[0].bodies] == list(range(50))
        assert len(fakes[1].asked) == 1  # and no more until it answers
        assert 1 <= len(fakes[2].asked) <= 4  # once in each pause

    asking(says({}, 204), never, says({"title": "away"}, 503), body=body)


def test_node_that_comes_back_is_told_the_newest_acknowledgement_only() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.acknowledge(0)
        await until(lambda: bool(fakes[1].asked))
        for revision in range(1, 20):
            await client.acknowledge(revision)
        fakes[1].answer = says({}, 204)
        await until(lambda: len(fakes[1].asked) > 1)
        await client.acknowledge(20)
        await until(lambda: len(fakes[1].asked) > 2)
        assert fakes[1].bodies == [{"revision": 0}, {"revision": 19}, {"revision": 20}]

    asking(says({}, 204), says({"title": "away"}, 503), body=body)


def test_acknowledgement_is_said_anew_elsewhere_while_there_is_a_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies_module, "AGAIN", 0.01)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        async with aclosing(client.watch()) as events:
            await anext(events)
            await client.acknowledge(7)
            await until(lambda: len(fakes[1].asked) > 3)
            assert [asked for asked in fakes[0].asked if asked[0] == "POST"] == [
                ("POST", "/v1/acknowledgements")
            ]
        await asyncio.sleep(0.03)
        count = len(fakes[1].asked)
        await asyncio.sleep(0.05)
        assert len(fakes[1].asked) == count

    watched = lines(line("resync", 7), line("progress", 7), then=never)
    asking(watched_and(watched, says({}, 204)), says({}, 204), body=body)


def watched_and(watch: Answer, other: Answer) -> Answer:
    """Answer a watch so, and everything else otherwise."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (watch if request.path == "/v1/watch" else other)(request)

    return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a fake node has no event for what it is asked
            await asyncio.sleep(0.002)


def test_hints_go_a_thousand_at_a_time() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.hints([Hint("hv1", WEB, CA)] * 1500 + [Hint("hv1", WEB, CA, forget=True)])
        assert [len(each) for each in fakes[0].bodies] == [1000, 501]
        assert fakes[0].bodies[1][-1] == {"host": "hv1", "vsid": 5001, "ca": "10.0.1.5", "forget": True}

    asking(says({}, 202), body=body)


def test_followers_of_all_nodes_are_shown_once_and_where_they_are_now() -> None:
    def follower(name: str, seconds: float) -> dict[str, object]:
        return {"name": name, "role": "host", "revision": 7, "behind": 0.0, "connected_seconds": seconds}

    async def body(client: LookupClient, _fakes: list[FakeNode]) -> None:
        found = [(each.name, each.connected_seconds) for each in await client.nodes()]
        assert found == [("hv1", 100.0), ("hv2", 5.0)]

    asking(
        says([follower("hv2", 50.0)]),
        hang_up,
        says([follower("hv1", 100.0), follower("hv2", 5.0)]),
        body=body,
    )


def test_unfreezing_what_is_not_there_is_none() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.unfreeze(WEB, CA) is None
        fakes[0].answer = says(FORM)
        assert await client.unfreeze(WEB, CA) == RECORD

    asking(says({"title": "Not Found"}, 404), body=body)


def test_a_network_is_read_and_written_as_its_form() -> None:
    network = Network(hosts=(ProviderHost("hv1", (PA,), ("red",)),))
    form = {
        "hosts": [{"name": "hv1", "provider_addresses": ["198.51.100.11"], "tenants": ["red"]}],
        "gateways": [],
        "tenants": [],
    }

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.network() == network
        fakes[0].answer = says({"changes": [{"action": "put", "kind": "host", "name": "hv1"}]})
        assert len(await client.apply(network, dry_run=True)) == 1
        assert fakes[0].asked[-1] == ("PUT", "/v1/network?dry_run=true")
        assert fakes[0].bodies[-1] == form

    asking(says(form), body=body)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"records": [{"vsid": 1}]}',
        b'{"records": [], "revision": 1}',
    ],
)
def test_an_answer_that_makes_no_sense_is_like_none(nonsense: bytes) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=nonsense)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(StoreUnavailable):
            await client.resolve(WEB, CA)

    asking(answer, body=body)

    async def beside(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert await client.resolve(WEB, CA) == RECORD

    asking(answer, says(resolved(FORM)), body=beside)


def test_an_answer_beyond_all_measure_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "LARGEST_ANSWER", 1 << 20)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(StoreUnavailable, match="MiB"):
            await client.status()

    asking(endless, body=body)


def test_a_redirect_is_not_followed_with_the_token() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://127.0.0.1:1/")

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(Unacceptable):
            await client.status()

    asking(answer, body=body)


def test_a_token_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-of-two-tokens\n")

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.status()
        renewed = tmp_path / "renewed"
        renewed.write_text("second-of-two-tokens")
        renewed.replace(file)
        await client.status()
        file.unlink()
        await client.status()  # half way through a renewal, the last one goes on
        file.write_text("")
        await client.status()
        assert [each["Authorization"].split()[1] for each in fakes[0].headers] == [
            "first-of-two-tokens",
            *["second-of-two-tokens"] * 3,
        ]

    asking(says({}), body=body, token_file=file)


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff\xfe"])
def test_a_token_that_cannot_be_one_is_a_mistake_in_the_configuration(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="token"):
        LookupClient(LookupAccess(("http://127.0.0.1:1",), token_file=file))


def test_authorities_that_cannot_be_read_are_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        LookupClient(LookupAccess(("https://127.0.0.1:1",), authority_file=file))


WATCHED = [
    line("resync", 1200),
    put_line({**FORM, "revision": 1100}),
    line(
        "put",
        1000,
        kind="host",
        value={"name": "hv1", "provider_addresses": ["198.51.100.11"], "tenants": []},
    ),
    line("progress", 1200),
]


async def to_the_end(events: AsyncGenerator[Event, None]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass


async def take(client: LookupClient, count: int, **filters: Any) -> list[object]:
    found: list[object] = []
    async with aclosing(client.watch(**filters)) as events:
        async for each in events:
            found.append(each)
            if len(found) == count:
                break
    return found


def test_a_watch_yields_events() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        reset, record, host, progress = await take(client, 4, tenant="red", kind=Kind.RECORD, only_used=True)
        assert reset == Reset(1200)
        assert isinstance(record, Stored)
        assert record.key == RecordKey(WEB, CA)
        assert record.revision == 1100
        assert record.record is not None
        assert record.record.host == "hv1"
        assert isinstance(host, Stored)
        assert host.value == ProviderHost("hv1", (PA,), ())
        assert progress == Progress(1200)
        assert fakes[0].asked == [("GET", "/v1/watch?tenant=red&kind=record&only=used")]

    asking(lines(*WATCHED, then=never), body=body)


def test_lines_are_whole_however_they_were_cut() -> None:
    octets = b"".join(WATCHED)
    pieces = [octets[start : start + 7] for start in range(0, len(octets), 7)]

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert len(await take(client, 4)) == 4

    asking(lines(*pieces, then=never), body=body)


def test_a_watch_resumes_at_another_node_where_it_was() -> None:
    more = [put_line({**FORM, "revision": 1201}), put_line({**FORM, "ca": "10.0.1.6", "revision": 1201})]

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        found = await take(client, 7)
        assert [type(each).__name__ for each in found[4:]] == ["Stored", "Stored", "Stored"]
        # Another change of revision 1201 might have been lost, so both are told again.
        assert fakes[1].asked == [("GET", "/v1/watch?from=1200")]

    asking(lines(*WATCHED, more[0]), lines(*more, then=never), body=body)


def test_a_watch_that_is_cut_within_a_resync_begins_anew() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        found = await take(client, 5)
        assert found[2] == Reset(1200)
        assert fakes[1].asked == [("GET", "/v1/watch")]

    asking(lines(*WATCHED[:2]), lines(*WATCHED, then=never), body=body)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"no JSON\n",
        b'{"type":"surprise","revision":1}\n',
        b'{"type":"put","revision":1,"kind":"record","value":{}}\n',
        b'{"type":"put","revision":1,"kind":"tenant","value":{"name":7}}\n',
        b'{"type":"delete","revision":1,"kind":"record","value":{"vsid":5001,"ca":"x"}}\n',
        b'{"type":"put","revision":1}\n',
        b'{"type":"progress","revision":"1"}\n',
        b'{"type":"progress"}\n',
        b"\xff\n",
    ],
)
def test_a_line_that_makes_no_sense_is_counted_and_another_node_watched(nonsense: bytes) -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        watch = client.new_watch()
        with pytest.raises(StoreUnavailable, match="makes no sense"):
            await to_the_end(watch.connection(None))
        assert watch.malformed == 1
        assert await take(client, 4)
        assert len(fakes[1].asked) == 1

    asking(lines(WATCHED[0], nonsense, then=never), lines(*WATCHED, then=never), body=body)


def test_a_node_that_lags_behind_what_was_told_is_left() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        found = await take(client, 1, after=1150)
        assert found == [Progress(1200)]
        assert len(fakes[0].asked) == 1

    asking(lines(line("resync", 900), then=never), lines(WATCHED[3], then=never), body=body)


def test_a_watch_that_may_not_be_had_says_so() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        with pytest.raises(Forbidden, match="who are you"):
            await take(client, 1)

    asking(says({"detail": "who are you"}, 401), body=body)


def test_a_silent_node_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "SILENCE", 0.1)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        assert len(await take(client, 8)) == 8
        assert len(fakes[1].asked) == 1

    asking(lines(*WATCHED, then=never), lines(*WATCHED, then=never), body=body)


def test_a_running_watch_keeps_the_cache_right() -> None:
    """Neither a look-up nor a moment's age stands between a change that was told and whoever asks."""
    go = asyncio.Event()

    async def watched(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/watch":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"".join(WATCHED))
            await go.wait()
            await response.write(put_line(MOVED) + line("progress", 1300))
            return await never(request)
        return await says(resolved(FORM, revision=1234))(request)

    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        async with aclosing(client.watch()) as events:
            async for each in events:
                if each == Progress(1200):
                    assert await client.resolve(WEB, CA) == RECORD
                    go.set()
                if each == Progress(1300):
                    break
            found = await client.resolve(WEB, CA)
            assert found is not None
            assert found.host == "hv2"
        assert [path for _, path in fakes[0].asked] == ["/v1/watch", "/v1/resolve"]

    asking(watched, body=body)


def test_clients_leave_nothing_open() -> None:
    async def body(client: LookupClient, fakes: list[FakeNode]) -> None:
        await client.status()

    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        asking(says({}), says({}), body=body)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
