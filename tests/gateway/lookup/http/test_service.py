from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.http import calls
from gateway.http.principals import Principal
from gateway.lookup import forms
from gateway.lookup.alerts import AlertKind
from gateway.lookup.entries import RecordKey
from gateway.lookup.store import StoreUnavailable
from policies.errors import ConfigurationError
from policies.services import Credential, LookupSettings, Role, ServerTls
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    NETWORK,
    OPERATOR,
    READER,
    TOKENS,
    WEB,
    Answer,
    Asker,
    Serving,
    asking,
    ca,
    lookup_node,
    mac,
    place,
)

PATH = "/v1/records/5001/10.0.1.5"
BODY = {"mac": str(mac(5)), "pa": "198.51.100.11", "host": "hv1"}


def asked(test: Callable[[Serving, Asker], Awaitable[None]], principal: Principal | None = OPERATOR) -> None:
    """Run a test with a node and somebody who asks it."""

    async def main() -> None:
        async with lookup_node() as node, asking(node, principal) as ask:
            await test(node, ask)

    asyncio.run(main())


def is_problem(answer: Answer, status: int, *words: str) -> bool:
    """Whether an answer is a problem as RFC 9457 has it, with these words in its detail."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["status"] == status
    assert answer.body["type"] == "about:blank"
    assert answer.body["title"]
    missing = [word for word in words if word not in answer.body["detail"]]
    assert not missing, answer.body
    return True


def test_record_is_read_with_its_epoch_as_its_tag() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        revision = await place(node, WEB, "10.0.1.5", 5, "hv1")
        answer = await ask("GET", PATH)
        assert answer.status == 200
        assert answer.body == {
            "vsid": WEB,
            "ca": "10.0.1.5",
            "mac": str(mac(5)),
            "pa": "198.51.100.11",
            "host": "hv1",
            "translation": "encap",
            "epoch": 1,
            "revision": revision,
        }
        assert answer.headers["ETag"] == '"1"'
        assert (await ask("GET", PATH, If_None_Match='"1"')).status == 304
        assert (await ask("GET", PATH, If_None_Match='"2"')).status == 200
        head = await ask("HEAD", PATH)
        assert (head.status, head.body, head.headers["ETag"]) == (200, b"", '"1"')
        assert is_problem(await ask("GET", "/v1/records/5001/10.0.1.6"), 404, "10.0.1.6")

    asked(test)


def test_ipv6_record_is_found_by_every_way_to_write_its_address() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "fd00:1::5", 5, "hv1")
        for text in ("fd00:1::5", "FD00:1:0:0::5", "fd00%3A1%3a%3A5"):
            answer = await ask("GET", f"/v1/records/5001/{text}")
            assert (answer.status, answer.body["ca"]) == (200, "fd00:1::5")

    asked(test)


def test_batch_is_answered_in_its_order_with_null_for_what_is_not_there() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        await place(node, BLUE, "10.0.1.5", 6, "hv3")
        wanted = [{"vsid": vsid, "ca": "10.0.1.5"} for vsid in (BLUE, DB, WEB, WEB)]
        answer = await ask("POST", "/v1/resolve", wanted)
        found = [each and (each["vsid"], each["host"]) for each in answer.body["records"]]
        assert found == [(BLUE, "hv3"), None, (WEB, "hv1"), (WEB, "hv1")]
        assert answer.body["revision"] == node.replica.revision
        assert answer.body["stale_seconds"] == 0
        assert (await ask("POST", "/v1/resolve", [])).body["records"] == []

    asked(test)


def test_pages_hold_every_record_once_in_order() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        for number in range(2, 9):
            await place(node, WEB, f"10.0.1.{number}", number, "hv1")
        await place(node, WEB, "fd00:1::5", 20, "hv1")
        await place(node, DB, "10.0.2.5", 21, "hv1")
        await place(node, BLUE, "10.0.1.5", 22, "hv3")
        found: list[tuple[int, str]] = []
        further = ""
        pages = 0
        while True:
            body = (await ask("GET", f"/v1/records?limit=3{further}")).body
            found += [(each["vsid"], each["ca"]) for each in body["records"]]
            pages += 1
            if body["continue"] is None:
                break
            assert len(body["records"]) == 3
            further = f"&continue={body['continue']}"
        assert pages == 4
        web = [(int(WEB), f"10.0.1.{number}") for number in range(2, 9)] + [(int(WEB), "fd00:1::5")]
        assert found == [*web, (DB, "10.0.2.5"), (BLUE, "10.0.1.5")]
        for query, count in {
            "tenant=red": 9,
            "vsid=5002": 1,
            "tenant=blue&vsid=5001": 0,
            "tenant=no": 0,
        }.items():
            assert len((await ask("GET", f"/v1/records?{query}")).body["records"]) == count

    asked(test)


def test_reader_is_shown_its_tenants_records_alone() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        await place(node, BLUE, "10.0.1.5", 6, "hv3")
        assert (await ask("GET", PATH)).status == 200
        assert is_problem(await ask("GET", "/v1/records/6001/10.0.1.5"), 404)
        batch = await ask("POST", "/v1/resolve", [{"vsid": vsid, "ca": "10.0.1.5"} for vsid in (WEB, BLUE)])
        assert [each and each["vsid"] for each in batch.body["records"]] == [WEB, None]
        assert [each["vsid"] for each in (await ask("GET", "/v1/records")).body["records"]] == [WEB]
        assert (await ask("GET", "/v1/records?tenant=blue")).body["records"] == []
        tenants = (await ask("GET", "/v1/tenants")).body
        assert [each["name"] for each in tenants] == ["red"]
        assert tenants[0]["sites"][0]["ike"] == {"local_id": "", "remote_id": ""}
        network = (await ask("GET", "/v1/network")).body
        assert (network["hosts"], network["gateways"], len(network["tenants"])) == ([], [], 1)
        assert "alerts" not in (await ask("GET", "/v1/status")).body

    asked(test, READER)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", PATH, BODY),
        ("DELETE", PATH, None),
        ("POST", f"{PATH}/unfreeze", None),
        ("PUT", "/v1/network", {}),
        ("POST", "/v1/claims", {"vsid": WEB, "mac": str(mac(5)), "pa": "198.51.100.11"}),
        ("POST", "/v1/hints", {"host": "hv1", "vsid": WEB, "ca": "10.0.1.5"}),
        ("POST", "/v1/acknowledgements", {"revision": 1}),
        ("GET", "/v1/nodes", None),
    ],
)
def test_reader_changes_nothing_and_sees_no_nodes(method: str, path: str, body: object) -> None:
    async def test(node: Serving, ask: Asker) -> None:
        assert is_problem(await ask(method, path, body, If_Match="*"), 403)
        assert node.authority.alerts.counts.total() == 1

    asked(test, READER)


def test_put_needs_a_precondition_and_keeps_to_it() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        assert is_problem(await ask("PUT", PATH, BODY), 428)
        missing = await ask("PUT", PATH, BODY, If_Match='"1"')
        assert is_problem(missing, 412)
        assert missing.body["current"] is None
        created = await ask("PUT", PATH, BODY, If_None_Match="*")
        assert (created.status, created.headers["ETag"]) == (201, '"1"')
        again = await ask("PUT", PATH, BODY, If_None_Match="*")
        assert is_problem(again, 412)
        assert again.body["current"] == created.body
        moved = {**BODY, "pa": "198.51.100.12", "host": "hv2", "translation": "encap"}
        changed = await ask("PUT", PATH, moved, If_Match='"1"')
        assert (changed.status, changed.body["epoch"], changed.body["translation"]) == (200, 2, "encap")
        lost = await ask("PUT", PATH, BODY, If_Match='"1"')
        assert is_problem(lost, 412)
        assert lost.body["current"] == changed.body
        assert (await ask("PUT", PATH, moved, If_Match="*")).body == changed.body

    asked(test)


@pytest.mark.parametrize(
    "headers",
    [
        {"If_Match": "1"},
        {"If_Match": 'W/"1"'},
        {"If_Match": '"1", "2"'},
        {"If_Match": '"01"'},
        {"If_Match": '"-1"'},
        {"If_Match": '"9999999999999999999"'},
        {"If_Match": ""},
        {"If_None_Match": '"1"'},
        {"If_Match": "*", "If_None_Match": "*"},
    ],
    ids=str,
)
def test_precondition_that_is_none_of_ours_is_refused(headers: dict[str, str]) -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        assert is_problem(await ask("PUT", PATH, BODY, **headers), 400, "If-")

    asked(test)


def test_record_is_deleted_as_expected_and_its_epoch_goes_on() -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        assert is_problem(await ask("DELETE", PATH, If_Match="*"), 404)
        await ask("PUT", PATH, BODY, If_None_Match="*")
        assert is_problem(await ask("DELETE", PATH), 428)
        assert is_problem(await ask("DELETE", PATH, If_None_Match="*"), 400)
        assert is_problem(await ask("DELETE", PATH, If_Match='"7"'), 412)
        gone = await ask("DELETE", PATH, If_Match='"1"')
        assert (gone.status, gone.body) == (204, b"")
        assert is_problem(await ask("GET", PATH), 404)
        assert (await ask("PUT", PATH, BODY, If_None_Match="*")).body["epoch"] == 3

    asked(test)


def test_claim_is_answered_with_all_records_of_the_mac() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        for text in ("10.0.1.5", "fd00:1::5"):
            await place(node, WEB, text, 5, "hv2")
        claim = {"vsid": WEB, "mac": str(mac(5)), "pa": "198.51.100.11"}
        answer = await ask("POST", "/v1/claims", claim)
        assert {(each["ca"], each["host"]) for each in answer.body["records"]} == {
            ("10.0.1.5", "hv1"),
            ("fd00:1::5", "hv1"),
        }
        assert answer.body["learned"] == {}
        assert (await ask("POST", "/v1/claims", claim)).body["records"] == answer.body["records"]

    asked(test, HV1)


@pytest.mark.parametrize(
    ("number", "more", "reason"),
    [
        (9, {}, "unknown"),
        (6, {"addresses": ["10.0.1.5"]}, "other-mac"),
        (5, {"mode": "register"}, "elsewhere"),
    ],
)
def test_refused_claim_says_why_and_shows_what_is_in_its_way(
    number: int, more: dict[str, Any], reason: str
) -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv2")
        claim = {"vsid": WEB, "mac": str(mac(number)), "pa": "198.51.100.11", **more}
        answer = await ask("POST", "/v1/claims", claim)
        assert is_problem(answer, 409)
        assert answer.body["reason"] == reason
        current = answer.body["current"]
        assert current is None if reason == "unknown" else current["host"] == "hv2"

    asked(test, HV1)


def test_frozen_record_is_unfrozen_by_an_operator() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        for number in range(5):
            pa = ("198.51.100.12", "198.51.100.11")[number % 2]
            await ask("POST", "/v1/claims", {"vsid": WEB, "mac": str(mac(5)), "pa": pa})
        claim = {"vsid": WEB, "mac": str(mac(5)), "pa": "198.51.100.11"}
        frozen = await ask("POST", "/v1/claims", claim)
        assert is_problem(frozen, 409)
        assert frozen.body["reason"] == "frozen"
        assert (await ask("POST", f"{PATH}/unfreeze")).body["host"] == "hv2"
        assert (await ask("POST", "/v1/claims", claim)).status == 200
        assert (await ask("GET", "/v1/status")).body["alert_counts"] == {"frozen": 2}
        assert is_problem(await ask("POST", "/v1/records/5001/10.0.1.77/unfreeze"), 404)

    asked(test)


def test_hints_are_taken_one_by_one_or_as_a_list() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        one = {"host": "hv1", "vsid": WEB, "ca": "10.0.1.5"}
        assert (await ask("POST", "/v1/hints", one)).status == 202
        assert (
            await ask("POST", "/v1/hints", [{**one, "ca": "10.0.1.6"}, {**one, "forget": True}])
        ).status == 202
        assert set(node.authority.followers.taught("hv1")) == {RecordKey(WEB, ca("10.0.1.6"))}

    asked(test, GATEWAY)


def test_network_is_read_as_it_is_written() -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        network = (await ask("GET", "/v1/network")).body
        assert (await ask("PUT", "/v1/network", network)).body == {"changes": []}
        pin = {"vsid": WEB, "ca": "10.0.1.9", "mac": str(mac(9)), "pa": "198.51.100.11", "host": "hv1"}
        next(each for each in network["tenants"] if each["name"] == "red")["records"] = [pin]
        changes = [{"action": "put", "kind": "record", "vsid": WEB, "ca": "10.0.1.9"}]
        assert (await ask("PUT", "/v1/network?dry_run=true", network)).body == {"changes": changes}
        assert (await ask("PUT", "/v1/network", network)).body == {"changes": changes}
        shown = (await ask("GET", "/v1/network")).body
        assert shown == network
        assert (await ask("GET", "/v1/records/5001/10.0.1.9")).body["epoch"] == 0

    asked(test)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hosts": 7}, ["hosts", "list"]),
        (
            {"hosts": [{"name": "x", "provider_addresses": ["nowhere"], "tenants": []}]},
            ["hosts[0]", "nowhere"],
        ),
        ({"more": []}, ["more", "unknown"]),
        ({"tenants": [{"name": "x", "gateways": []}]}, ["subnets", "missing"]),
    ],
)
def test_network_that_is_none_is_refused_with_the_keys_path(change: dict[str, Any], words: list[str]) -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        assert is_problem(await ask("PUT", "/v1/network", change), 400, *words)

    asked(test)


def test_network_that_contradicts_itself_changes_nothing() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        network = (await ask("GET", "/v1/network")).body
        before = node.replica.revision
        network["tenants"][0]["subnets"][0]["vsid"] = network["tenants"][1]["subnets"][0]["vsid"]
        assert is_problem(await ask("PUT", "/v1/network", network), 422, "5001", "twice")
        assert node.replica.revision == before

    asked(test)


def test_sites_tenants_nodes_and_health_are_told() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        sites = (await ask("GET", "/v1/sites")).body
        assert [(each["tenant"], each["name"]) for each in sites] == [("red", "seattle")]
        assert sites[0]["ike"]["remote_id"] == "seattle.example"
        node.authority.acknowledge(GATEWAY, 3)
        assert [(each["name"], each["role"]) for each in (await ask("GET", "/v1/nodes")).body] == [
            ("edge-1", "gateway")
        ]
        status = (await ask("GET", "/v1/status")).body
        assert (status["records"], status["synced"], status["nodes"]) == (0, True, 1)

    asked(test)


def test_health_and_the_document_need_no_credential_and_everything_else_does() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await ask("GET", path)).status == 200
        for method, path in (
            ("GET", PATH),
            ("POST", "/v1/claims"),
            ("GET", "/v1/watch"),
            ("GET", "/v1/status"),
        ):
            answer = await ask(method, path)
            assert is_problem(answer, 401)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        wrong = await ask("GET", PATH, Authorization=f"Bearer {TOKENS['hv1']}x")
        assert is_problem(wrong, 401)
        assert TOKENS["hv1"] not in wrong.body["detail"]
        assert node.authority.alerts.counts == {AlertKind.UNKNOWN: 1}
        assert node.authority.alerts.last[0].message.startswith("127.0.0.1: ")

    asked(test, None)


def test_credentials_are_replaced_while_the_service_runs() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        assert (await ask("GET", "/v1/status")).status == 200
        node.door.credentials = type(node.door.credentials)([(b"another-token-0123456789", OPERATOR)], {})
        assert (await ask("GET", "/v1/status")).status == 401

    asked(test)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/records/5001", 404, []),
        ("/v1/records/5001/10.0.1.5/more", 404, []),
        ("/v1/records/5001/10.0.1.5/", 404, []),
        ("/v1/records/4095/10.0.1.5", 400, ["vsid"]),
        ("/v1/records/16777215/10.0.1.5", 400, ["vsid"]),
        ("/v1/records/-1/10.0.1.5", 400, ["vsid"]),
        ("/v1/records/0x1389/10.0.1.5", 400, ["vsid"]),
        ("/v1/records/%d9%a5%d9%a0%d9%a0%d9%a1/10.0.1.5", 400, ["vsid"]),
        ("/v1/records/99999999999999999999999999/10.0.1.5", 400, ["vsid"]),
        ("/v1/records/5001/10.0.1", 400, ["ca"]),
        ("/v1/records/5001/10.0.1.05", 400, ["ca"]),
        ("/v1/records/5001/10.0.1.5%00", 400, ["ca"]),
        ("/v1/records/5001/fe80::1%25eth0", 400, ["ca"]),
        ("/v1/records/5001/%ff%fe", 400, ["ca"]),
        ("/v1/records?limit=0", 400, ["limit"]),
        ("/v1/records?limit=1001", 400, ["limit"]),
        ("/v1/records?limit=", 400, ["limit"]),
        ("/v1/records?vsid=1", 400, ["vsid"]),
        ("/v1/records?continue=5001", 400, ["continue"]),
        ("/v1/records?vsid=5001&vsid=5002", 400, ["twice"]),
        ("/v1/records?colour=red", 400, ["colour"]),
        ("/v1/network?tenant=red", 400, ["tenant"]),
        (f"{PATH}?epoch=1", 400, ["epoch"]),
        ("/v1/watch?kind=cat", 400, ["kind"]),
        ("/v1/watch?from=-1", 400, ["from"]),
        ("/v1/watch?only=new", 400, ["only"]),
        ("/v1/network/", 404, []),
        ("/", 404, []),
        ("//v1/status", 404, []),
        ("/v1/../v1/status", 404, []),
    ],
)
def test_path_or_query_that_means_nothing_is_refused_by_name(
    path: str, status: int, words: list[str]
) -> None:
    async def test(node: Serving, _ask: Asker) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['op']}\r\n"
        said = await raw(node, head.encode() + b"Connection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 %d " % status), said
        assert b"application/problem+json" in said
        assert all(word.encode() in said for word in words), said

    asked(test)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["body"]),
        (b"{", ["body"]),
        (b'{"vsid": 5001, "mac": "02:00:00:00:00:05"}', ["pa"]),
        (b'{"vsid": "5001", "mac": "02:00:00:00:00:05", "pa": "198.51.100.11"}', ["$.vsid"]),
        (b'{"vsid": 5001.5, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11"}', ["$.vsid"]),
        (b'{"vsid": 1, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11"}', ["$.vsid"]),
        (b'{"vsid": 1e400, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11"}', ["body"]),
        (b'{"vsid": 5001, "mac": "02:00:00:00:00", "pa": "198.51.100.11"}', ["mac"]),
        (b'{"vsid": 5001, "mac": "02:00:00:00:00:05", "pa": "198.51.100"}', ["pa"]),
        (b'{"vsid": 5001, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11", "extra": 1}', ["extra"]),
        (b'{"vsid": 5001, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11", "mode": "steal"}', ["$.mode"]),
        (
            b'{"vsid": 5001, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11", "addresses": ["fd::", 7]}',
            ["$.addresses[1]"],
        ),
        (
            b'{"vsid": 5001, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11", "addresses": ["10.0.1"]}',
            ["addresses[0]"],
        ),
        (b'{"vsid": 5001, "mac": "02:00:00:00:00:05", "pa": "198.51.100.11", "wait_ms": -1}', ["wait_ms"]),
        (b'{"vsid": 5001, "mac": "\xff\xfe", "pa": "198.51.100.11"}', ["body"]),
        (b"[" * 100_000, ["body"]),
        (b'{"mac":' * 20_000 + b"1" + b"}" * 20_000, ["body"]),
        (b"null", ["body"]),
        (b"\x00", ["body"]),
        (b"\xef\xbb\xbf{}", ["body"]),
    ],
)
def test_malformed_claim_is_refused_with_the_keys_path(body: bytes, words: list[str]) -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        assert is_problem(await ask("POST", "/v1/claims", body), 400, *words)

    asked(test, HV1)


@pytest.mark.parametrize("path", ["/v1/network", "/v1/resolve", "/v1/hints", "/v1/acknowledgements"])
def test_body_of_any_shape_is_no_fault_of_the_service(path: str) -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        method = "PUT" if path == "/v1/network" else "POST"
        for body in (
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"1",
            b'"x"',
            b"null",
            b"[null]",
            b"{}x",
            b"[[]]",
            b"\xff",
        ):
            assert is_problem(await ask(method, path, body), 400)
        for body in (b'{"tenants": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",):
            assert is_problem(await ask(method, path, body), 400)

    asked(test)


def test_batch_of_more_than_a_thousand_is_refused() -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        one = {"vsid": WEB, "ca": "10.0.1.5"}
        assert (await ask("POST", "/v1/resolve", [one] * 1000)).status == 200
        assert is_problem(await ask("POST", "/v1/resolve", [one] * 1001), 400, "1000")
        bad = [one, {**one, "ca": "10.0.1"}]
        assert is_problem(await ask("POST", "/v1/resolve", bad), 400, "[1].ca")

    asked(test)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
def test_body_is_json_or_it_is_not_read(kind: str, status: int) -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        assert (await ask("POST", "/v1/resolve", b"[]", Content_Type=kind)).status == status

    asked(test)


def test_compressed_body_is_not_unpacked() -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        answer = await ask("POST", "/v1/resolve", b"\x1f\x8b", Content_Encoding="gzip")
        assert is_problem(answer, 415, "encoding")

    asked(test)


def test_body_above_a_mebibyte_is_refused_whether_it_says_so_or_not() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        assert (await ask("POST", "/v1/resolve", b"[" + b" " * ((1 << 20) - 2) + b"]")).status == 200

        async def endless() -> Any:
            for _ in range(40):
                yield b" " * 65536

        head = {**ask.headers, "Content-Type": "application/json"}
        with contextlib.suppress(aiohttp.ClientError):
            async with ask.session.post(f"{ask.url}/v1/resolve", data=endless(), headers=head) as response:
                assert response.status == 413
        said = await raw(
            node,
            b"POST /v1/resolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {TOKENS['op']}\r\n".encode()
            + b"Content-Length: 1048577\r\n\r\n",
        )
        assert said.startswith(b"HTTP/1.1 413 ")

    asked(test)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_only_an_operator_s_network_may_be_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(node: Serving, ask: Asker) -> None:
        network = msgspec.json.encode(forms.form(NETWORK)) + b" " * (1 << 20)
        assert (await ask("PUT", "/v1/network", network)).body == {"changes": []}
        async with asking(node, HV1) as host:
            assert is_problem(await host("PUT", "/v1/network", network), 413)
        monkeypatch.setattr("gateway.lookup.http.writes.LARGE", calls.Bound(1 << 20, 60.0))
        assert is_problem(await ask("PUT", "/v1/network", network), 413)

    asked(test)


def test_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SMALL", calls.Bound(1000, 0.05))

    async def test(node: Serving, _ask: Asker) -> None:
        said = await raw(
            node,
            b"POST /v1/resolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {TOKENS['op']}\r\n".encode()
            + b"Content-Length: 100\r\n\r\n[",
        )
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in said

    asked(test)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/records", "GET, HEAD"),
        ("GET", "/v1/resolve", "POST"),
        ("PATCH", PATH, "GET, PUT, DELETE, HEAD"),
        ("OPTIONS", "/v1/claims", "POST"),
        ("PROPFIND", "/healthz", "GET, HEAD"),
    ],
)
def test_method_that_a_path_does_not_have_is_refused_with_those_that_it_has(
    method: str, path: str, allowed: str
) -> None:
    async def test(_node: Serving, ask: Asker) -> None:
        answer = await ask(method, path)
        assert is_problem(answer, 405)
        assert answer.headers["Allow"] == allowed

    asked(test)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]", "192.0.2.1:7637"])
def test_loopback_is_asked_by_its_own_name_only(host: str) -> None:
    async def test(node: Serving, _ask: Asker) -> None:
        said = await raw(
            node, f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert said.startswith(b"HTTP/1.1 421 ")

    asked(test)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7637", "127.0.0.1", "[::1]:7637"])
def test_loopbacks_names_are_taken_with_any_port(host: str) -> None:
    async def test(node: Serving, _ask: Asker) -> None:
        said = await raw(node, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 200 ")

    asked(test)


def test_another_sites_page_changes_nothing() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")
        for origin in ("https://evil.example", "null"):
            assert is_problem(await ask("POST", f"{PATH}/unfreeze", Origin=origin), 403)
        assert (await ask("POST", f"{PATH}/unfreeze", Origin=ask.url)).status == 200

    asked(test)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_as_a_problem_and_closed(octets: bytes) -> None:
    async def test(node: Serving, _ask: Asker) -> None:
        said = await raw(node, octets)
        assert said[8:13] == b" 400 ", said
        assert b"application/problem+json" in said

    asked(test)


def test_store_that_is_away_stops_writes_and_not_reads() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        await place(node, WEB, "10.0.1.5", 5, "hv1")

        async def away(*_asked: object) -> Any:
            raise StoreUnavailable("no route to 192.0.2.9")

        for name in ("get", "put", "delete", "claim"):
            setattr(node.store, name, away)
        node.replica.stale_since = asyncio.get_running_loop().time() - 60
        claim = {"vsid": WEB, "mac": str(mac(5)), "pa": "198.51.100.12"}
        for answer in (
            await ask("PUT", PATH, BODY, If_Match="*"),
            await ask("DELETE", PATH, If_Match="*"),
            await ask("POST", "/v1/claims", claim),
            await ask("POST", f"{PATH}/unfreeze"),
        ):
            assert is_problem(answer, 503)
            assert answer.headers["Retry-After"] == "1"
            assert "192.0.2.9" not in answer.body["detail"]
        assert (await ask("GET", PATH)).status == 200
        batch = await ask("POST", "/v1/resolve", [{"vsid": WEB, "ca": "10.0.1.5"}])
        assert batch.body["stale_seconds"] >= 60

    asked(test)


def test_node_that_has_read_nothing_yet_does_not_say_that_there_is_nothing() -> None:
    async def test(node: Serving, ask: Asker) -> None:
        node.replica.has_contents = False
        for method, path, body in (
            ("GET", PATH, None),
            ("POST", "/v1/resolve", []),
            ("GET", "/v1/records", None),
            ("GET", "/v1/network", None),
            ("GET", "/v1/watch", None),
            ("GET", "/readyz", None),
        ):
            answer = await ask(method, path, body)
            assert is_problem(answer, 503)
            assert answer.headers["Retry-After"]
        assert (await ask("GET", "/healthz")).status == 200

    asked(test)


def test_fault_of_ours_ends_one_request_and_tells_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Serving, ask: Asker) -> None:
        async def broken(*_asked: object) -> Any:
            raise RuntimeError("hush")

        monkeypatch.setattr(node.store, "put", broken)
        answer = await ask("PUT", PATH, BODY, If_None_Match="*")
        assert is_problem(answer, 500)
        assert "hush" not in str(answer.body)
        assert (await ask("GET", "/v1/status")).status == 200

    asked(test)
    assert "hush" in caplog.text
    assert TOKENS["op"] not in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        LookupSettings(listen="0.0.0.0:0"),
        LookupSettings(listen="[::]:0"),
        LookupSettings(listen="192.0.2.1:0", credentials=(Credential("op", Role.OPERATOR, subject="op"),)),
        LookupSettings(listen="127.0.0.1"),
        LookupSettings(listen="127.0.0.1:http"),
        LookupSettings(listen="127.0.0.1:0", tls=ServerTls(*map(Path, ("/no/c", "/no/k")))),
    ],
    ids=str,
)
def test_service_that_would_be_open_to_others_or_is_misconfigured_does_not_start(
    settings: LookupSettings,
) -> None:
    async def main() -> None:
        async with lookup_node(settings):
            pytest.fail("it has started")

    with pytest.raises(ConfigurationError, match="lookup"):
        asyncio.run(main())


def test_connection_beyond_the_limit_takes_the_place_of_the_oldest_stranger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.http.connections.MOST_CONNECTIONS", 2)

    async def test(node: Serving, ask: Asker) -> None:
        held = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(2)]
        assert (await ask("GET", "/healthz")).status == 200
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(3):
                assert await held[0][0].read() == b""
        held[1][1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(3):
            assert (await held[1][0].readline()).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    asked(test)


@pytest.mark.parametrize("octets", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
def test_whoever_connects_and_asks_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, octets: bytes
) -> None:
    monkeypatch.setattr("gateway.http.connections.FIRST_REQUEST_SECONDS", 0.1)

    async def test(node: Serving, ask: Asker) -> None:
        assert (await ask("GET", "/healthz")).status == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(octets)
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        writer.close()
        # Whoever has asked before may ask again later.
        assert (await ask("GET", "/healthz")).status == 200

    asked(test)


async def raw(node: Serving, octets: bytes) -> bytes:
    """Send octets, and return what is said until the connection is closed, or the answer is whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(octets)
    said = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(3):
            while more := await reader.read(65536):
                said += more
                head, _, rest = said.partition(b"\r\n\r\n")
                length = next(
                    (line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), b"x 9"
                )
                if len(rest) >= int(length.split()[1]):
                    break
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return said
