"""Leases and pools as the HTTP interface has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from gateway.http.principals import Principal
from gateway.lookup import forms
from gateway.lookup.limits import MOST_RETURNED
from policies.model import LookupRecord, Network, Translation
from tests.gateway.lookup.pooled import pooled
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    HV2,
    HV3,
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
    pa,
    place,
    prefix,
)

WANTED = {"vsid": WEB, "ca": "172.16.0.9"}
PATH = f"/v1/records/{WEB}/10.0.1.5"
RECORD = {"mac": "02:00:00:00:00:05", "host": "hv1"}


def asked(
    test: Callable[[Serving, Callable[[Principal], Asker]], Awaitable[None]], network: Network | None = None
) -> None:
    """Run a test at a lookup node, with somebody to ask for each principal."""

    async def main() -> None:
        async with lookup_node(network=network or pooled()) as node, asking(node) as operator:

            def of(principal: Principal) -> Asker:
                return Asker(operator.session, operator.url, TOKENS[principal.name])

            await test(node, of)

    asyncio.run(main())


def reason(answer: Answer) -> tuple[int, Any]:
    return answer.status, answer.body.get("reason")


@pytest.mark.parametrize("principal", [HV1, GATEWAY, OPERATOR], ids=lambda each: each.role)
def test_lease_is_given_and_read_and_the_same_again(principal: Principal) -> None:
    async def test(node: Serving, of: Callable[[Principal], Asker]) -> None:
        answer = await of(principal)("POST", "/v1/leases", WANTED)
        assert answer.status == 200
        lease = answer.body["lease"]
        assert {name: lease[name] for name in ("vsid", "ca", "node")} == {**WANTED, "node": "edge-1"}
        (held,) = node.replica.granted.leases_in(WEB)
        assert (lease["pa"], lease["revision"]) == (str(held.pa), held.revision)
        assert (await of(principal)("POST", "/v1/leases", WANTED)).body == answer.body
        listed = await of(READER)("GET", "/v1/leases")
        assert listed.body == {"leases": [lease], "continue": None, "revision": node.replica.revision}

    asked(test)


def test_rewritten_vm_is_answered_by_its_record() -> None:
    async def test(_node: Serving, of: Callable[[Principal], Asker]) -> None:
        put = await of(OPERATOR)("PUT", PATH, RECORD, If_None_Match="*")
        assert (put.status, put.body["translation"]) == (201, "rewrite")
        answer = await of(HV1)("POST", "/v1/leases", {"vsid": WEB, "ca": "10.0.1.5"})
        assert (answer.status, answer.body) == (200, {"record": put.body})

    asked(test)


def test_who_gets_no_lease_is_told_why() -> None:
    async def test(_node: Serving, of: Callable[[Principal], Asker]) -> None:
        ask = of(HV1)
        assert reason(await ask("POST", "/v1/leases", {"vsid": WEB, "ca": "10.0.1.77"})) == (409, "unknown")
        assert (await ask("POST", "/v1/leases", WANTED)).status == 200
        other = {"vsid": WEB, "ca": "172.16.0.10"}
        assert reason(await ask("POST", "/v1/leases", other)) == (409, "tenant-limit")

    asked(test, pooled(leases=1))


def test_pool_that_is_empty_or_missing_is_told() -> None:
    async def test(node: Serving, of: Callable[[Principal], Asker]) -> None:
        ask = of(GATEWAY)
        await place(node, WEB, "fd00:1::5", 5, "hv1")
        for number in (1, 2):
            assert (await ask("POST", "/v1/leases", {"vsid": WEB, "ca": f"172.16.0.{number}"})).status == 200
        assert reason(await ask("POST", "/v1/leases", WANTED)) == (409, "pool-empty")
        assert reason(await ask("POST", "/v1/leases", {"vsid": WEB, "ca": "fd00:1::5"})) == (409, "no-pool")

    asked(test, pooled(edge_1=(prefix("192.0.2.128/30"),)))


@pytest.mark.parametrize(
    ("principal", "method", "path", "body", "status"),
    [
        (READER, "POST", "/v1/leases", WANTED, 403),
        (HV3, "POST", "/v1/leases", WANTED, 403),
        (HV1, "POST", "/v1/leases", {**WANTED, "gateway": "edge-2"}, 403),
        (GATEWAY, "POST", "/v1/leases", {**WANTED, "gateway": "edge-2"}, 403),
        (OPERATOR, "POST", "/v1/leases", {**WANTED, "gateway": "edge-9"}, 422),
        (OPERATOR, "POST", "/v1/leases", {**WANTED, "vsid": DB}, 422),
        (OPERATOR, "POST", "/v1/leases", {**WANTED, "ca": "172.16.0"}, 400),
        (OPERATOR, "POST", "/v1/leases", {**WANTED, "vsid": 7}, 400),
        (OPERATOR, "POST", "/v1/leases", {**WANTED, "node": "edge-1"}, 400),
        (READER, "POST", "/v1/leases/return", {"pas": []}, 403),
        (HV1, "POST", "/v1/leases/return", {"pas": []}, 403),
        (OPERATOR, "POST", "/v1/leases/return", {"pas": ["192.0.2"]}, 400),
        (OPERATOR, "POST", "/v1/leases/return", {"pas": ["192.0.2.130"] * (MOST_RETURNED + 1)}, 400),
        (READER, "GET", "/v1/pools", None, 403),
        (HV1, "GET", "/v1/pools", None, 403),
        (GATEWAY, "GET", "/v1/pools", None, 403),
        (OPERATOR, "GET", "/v1/leases?limit=0", None, 400),
        (OPERATOR, "GET", "/v1/leases?continue=5001/10.0.1.5", None, 400),
        (OPERATOR, "GET", "/v1/leases?vsid=5001", None, 400),
    ],
)
def test_what_may_not_be_asked_or_makes_no_sense_is_refused(
    principal: Principal, method: str, path: str, body: object, status: int
) -> None:
    async def test(node: Serving, of: Callable[[Principal], Asker]) -> None:
        answer = await of(principal)(method, path, body)
        assert answer.status == status, answer.body
        assert answer.body["detail"]
        assert not node.replica.granted.leased_vsids()

    asked(test)


def test_gateway_returns_its_own_leases() -> None:
    async def test(node: Serving, of: Callable[[Principal], Asker]) -> None:
        lease = (await of(HV1)("POST", "/v1/leases", WANTED)).body["lease"]
        other = (await of(OPERATOR)("POST", "/v1/leases", {**WANTED, "gateway": "edge-2"})).body["lease"]
        refused = await of(GATEWAY)("POST", "/v1/leases/return", {"pas": [lease["pa"], other["pa"]]})
        assert refused.status == 403
        assert len(node.replica.granted.leases_in(WEB)) == 2
        assert (await of(GATEWAY)("POST", "/v1/leases/return", {"pas": [lease["pa"]]})).status == 204
        assert [str(each.pa) for each in node.replica.granted.leases_in(WEB)] == [other["pa"]]

    asked(test)


def test_leases_are_listed_page_by_page_and_to_each_who_may_see_them() -> None:
    async def test(node: Serving, of: Callable[[Principal], Asker]) -> None:
        await place(node, BLUE, "10.0.1.5", 5, "hv2")
        wanted = [{"vsid": WEB, "ca": f"172.16.0.{number}"} for number in (9, 10, 11)]
        for each in (*wanted, {"vsid": BLUE, "ca": "10.0.1.5"}):
            assert (await of(OPERATOR)("POST", "/v1/leases", each)).status == 200
        await of(OPERATOR)("POST", "/v1/leases", {**wanted[0], "gateway": "edge-2"})

        async def listed(principal: Principal, query: str = "") -> list[tuple[int, str, str]]:
            found: list[Any] = []
            rest: str | None = ""
            while rest is not None:
                more = f"&continue={rest}" if rest else ""
                body = (await of(principal)("GET", f"/v1/leases?limit=2{query}{more}")).body
                assert len(body["leases"]) <= 2
                found += body["leases"]
                rest = body["continue"]
            return [(each["vsid"], each["ca"], each["node"]) for each in found]

        red = [(WEB, f"172.16.0.{number}", "edge-1") for number in (9, 10, 11)]
        blue = [(BLUE, "10.0.1.5", "edge-1")]
        everything = sorted([*red, (WEB, "172.16.0.9", "edge-2"), *blue], key=lambda each: each[0])
        assert sorted(await listed(OPERATOR)) == sorted(everything)
        assert sorted(await listed(HV2)) == sorted(everything)
        assert [each for each in await listed(READER) if each[0] == BLUE] == []
        assert await listed(HV3) == blue
        assert await listed(OPERATOR, "&tenant=blue") == blue
        assert await listed(READER, "&tenant=blue") == []
        assert await listed(OPERATOR, "&node=edge-2") == [(WEB, "172.16.0.9", "edge-2")]

    asked(test)


def test_pools_say_whose_they_are_and_what_is_left() -> None:
    async def test(_node: Serving, of: Callable[[Principal], Asker]) -> None:
        lease = (await of(HV1)("POST", "/v1/leases", WANTED)).body["lease"]
        await of(HV1)("POST", "/v1/leases", {**WANTED, "ca": "172.16.0.10"})
        await of(GATEWAY)("POST", "/v1/leases/return", {"pas": [lease["pa"]]})
        await of(OPERATOR)("PUT", PATH, RECORD, If_None_Match="*")
        pools = {each["prefix"]: each for each in (await of(OPERATOR)("GET", "/v1/pools")).body}
        edge, hosts = pools["192.0.2.128/28"], pools["203.0.113.0/28"]
        assert edge == {
            "prefix": "192.0.2.128/28", "nodes": ["edge-1"], "size": 14, "held": 1, "quarantined": 1,
        }  # fmt: skip
        assert (hosts["nodes"], hosts["held"]) == (["hv1", "hv2"], 1)
        assert pools["2001:db8:f::/64"]["size"] == 2**63 - 1

    asked(test)


def test_address_that_is_anothers_is_refused_with_the_holders_record() -> None:
    async def test(_node: Serving, of: Callable[[Principal], Asker]) -> None:
        ask = of(OPERATOR)
        held = (await ask("PUT", PATH, RECORD, If_None_Match="*")).body
        other = {**RECORD, "mac": "02:00:00:00:00:06", "pa": held["pa"]}
        refused = await ask("PUT", f"/v1/records/{WEB}/10.0.1.6", other, If_None_Match="*")
        assert reason(refused) == (409, "address-taken")
        assert refused.body["current"] == held
        assert (await ask("DELETE", PATH, If_Match="*")).status == 204
        refused = await ask("PUT", f"/v1/records/{WEB}/10.0.1.6", other, If_None_Match="*")
        assert (reason(refused), refused.body["current"]) == ((409, "address-taken"), None)

    asked(test)


def test_host_whose_pools_are_empty_is_told_so() -> None:
    async def test(_node: Serving, of: Callable[[Principal], Asker]) -> None:
        ask = of(OPERATOR)
        for number in range(14):
            path = f"/v1/records/{WEB}/10.0.1.{10 + number}"
            assert (await ask("PUT", path, RECORD, If_None_Match="*")).status == 201
        assert reason(await ask("PUT", PATH, RECORD, If_None_Match="*")) == (409, "no-address")
        claim = {
            "vsid": WEB, "mac": RECORD["mac"], "pa": "198.51.100.11", "addresses": ["10.0.1.5"],
        }  # fmt: skip
        assert reason(await of(HV1)("POST", "/v1/claims", claim)) == (409, "no-address")

    asked(test)


def test_network_whose_static_record_has_the_address_of_a_vm_is_refused_with_the_holders_record() -> None:
    async def test(node: Serving, of: Callable[[Principal], Asker]) -> None:
        ask = of(OPERATOR)
        held = (await ask("PUT", PATH, RECORD, If_None_Match="*")).body
        static = LookupRecord(WEB, ca("10.0.1.6"), mac(6), pa(held["pa"]), "hv1", Translation.REWRITE)
        red, *others = wanted.tenants
        red = msgspec.structs.replace(red, records=(static,))
        network = msgspec.structs.replace(wanted, tenants=(red, *others))
        refused = await ask("PUT", "/v1/network", forms.form(network))
        assert reason(refused) == (409, "address-taken")
        assert refused.body["current"] == held
        assert refused.body["detail"] == (
            f"{held['pa']} is taken by record 5001/10.0.1.5, so that record 5001/10.0.1.6 cannot have it; "
            "give one of the two another"
        )

    wanted = pooled(gateways=("edge-1",))
    tenants = tuple(msgspec.structs.replace(each, sites=()) for each in wanted.tenants)
    wanted = msgspec.structs.replace(wanted, tenants=tenants)
    asked(test, wanted)
