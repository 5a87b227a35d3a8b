"""Leases asked for by the client, of a lookup node and of nodes that answer what makes no sense."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.http.principals import Principal
from gateway.lookup.claims import Reason, Refused
from gateway.lookup.client import LookupClient
from gateway.lookup.entries import LeaseKey
from gateway.lookup.outcomes import Forbidden, NoLease, Unacceptable, WhyNoLease
from gateway.lookup.store import Expect, StoreUnavailable, Taken
from policies.model import Lease, Network, Translation
from policies.services import LookupAccess
from tests.gateway.lookup.client.fake_node import running, says
from tests.gateway.lookup.pooled import pooled
from tests.gateway.lookup.serving import (
    DB,
    GATEWAY,
    HV1,
    OPERATOR,
    READER,
    TOKENS,
    WEB,
    Serving,
    ca,
    lookup_node,
    mac,
    pa,
)

SERVER = ca("172.16.0.9")

Asking = Callable[[LookupClient, Serving], Awaitable[None]]


def asking(tmp_path: Path, test: Asking, principal: Principal, network: Network | None = None) -> None:
    """Run a test with the client of somebody at a lookup node with pools."""

    async def main() -> None:
        token = tmp_path / "token"
        token.write_text(TOKENS[principal.name])
        token.chmod(0o600)
        async with lookup_node(network=network or pooled()) as node:
            access = LookupAccess((f"http://127.0.0.1:{node.port}",), token_file=token)
            async with LookupClient(access) as client:
                await test(client, node)

    asyncio.run(main())


@pytest.mark.parametrize("principal", [HV1, GATEWAY, OPERATOR], ids=lambda each: each.role)
def test_lease_is_had_listed_and_returned(tmp_path: Path, principal: Principal) -> None:
    async def test(client: LookupClient, node: Serving) -> None:
        lease = await client.lease(WEB, SERVER)
        assert isinstance(lease, Lease)
        assert node.replica.granted.leases_of(WEB, SERVER) == (lease,)
        assert await client.lease(WEB, SERVER) == lease
        assert [each async for each in client.leases(tenant="red", node="edge-1")] == [lease]
        assert [each async for each in client.leases(node="edge-2")] == []
        if principal is HV1:
            with pytest.raises(Forbidden):
                await client.return_leases([lease.pa])
            return
        for _ in range(2):
            await client.return_leases([lease.pa])
        assert node.replica.granted.leases_of(WEB, SERVER) == ()

    asking(tmp_path, test, principal)


def test_operator_says_at_which_gateway_and_reads_the_pools(tmp_path: Path) -> None:
    async def test(client: LookupClient, _node: Serving) -> None:
        lease = await client.lease(WEB, SERVER, "edge-2")
        assert isinstance(lease, Lease)
        assert lease.node == "edge-2"
        with pytest.raises(Unacceptable, match="edge-9"):
            await client.lease(WEB, SERVER, "edge-9")
        pools = {str(pool.prefix): pool for pool in await client.pools()}
        assert (pools["192.0.2.160/27"].nodes, pools["192.0.2.160/27"].held) == (("edge-2",), 1)

    asking(tmp_path, test, OPERATOR)


def test_who_gets_no_lease_is_told_why(tmp_path: Path) -> None:
    async def test(client: LookupClient, _node: Serving) -> None:
        reasons = []
        for vsid, text in ((WEB, "8.8.8.8"), (DB, "10.0.2.77"), (WEB, "172.16.0.1"), (WEB, "172.16.0.2")):
            try:
                await client.lease(vsid, ca(text))
            except NoLease as error:
                reasons.append(error.reason)
        assert reasons == [WhyNoLease.UNKNOWN, WhyNoLease.UNKNOWN, WhyNoLease.TENANT_LIMIT]

    asking(tmp_path, test, HV1, pooled(leases=1))


def test_reader_leases_nothing(tmp_path: Path) -> None:
    async def test(client: LookupClient, _node: Serving) -> None:
        with pytest.raises(Forbidden):
            await client.lease(WEB, SERVER)

    asking(tmp_path, test, READER)


def test_rewritten_record_is_written_without_an_address_and_not_with_anothers(tmp_path: Path) -> None:
    async def test(client: LookupClient, _node: Serving) -> None:
        record = await client.put(WEB, ca("10.0.1.5"), mac=mac(5), host="hv1")
        assert record.translation is Translation.REWRITE
        assert await client.lease(WEB, ca("10.0.1.5")) == record
        with pytest.raises(Taken) as taken:
            await client.put(WEB, ca("10.0.1.6"), mac=mac(6), host="hv1", pa=record.pa)
        assert taken.value.key == LeaseKey(record.pa)
        assert taken.value.holder is not None
        assert taken.value.holder.record == record
        with pytest.raises(Unacceptable):
            await client.put(WEB, ca("10.0.1.6"), mac=mac(6), host="hv1", pa=pa("203.0.113.99"))
        plain = await client.put(
            WEB, ca("10.0.1.5"), mac=mac(5), host="hv1", translation=Translation.ENCAP, expected=Expect.ANY
        )
        assert plain.pa == pa("198.51.100.11")

    asking(tmp_path, test, OPERATOR)


def test_host_without_an_address_left_is_refused(tmp_path: Path) -> None:
    async def test(client: LookupClient, _node: Serving) -> None:
        for number in range(14):
            await client.put(WEB, ca(f"10.0.1.{10 + number}"), mac=mac(number + 1), host="hv1")
        with pytest.raises(Refused) as refused:
            await client.put(WEB, ca("10.0.1.5"), mac=mac(99), host="hv1")
        assert refused.value.reason is Reason.NO_ADDRESS

    asking(tmp_path, test, OPERATOR)


@pytest.mark.parametrize(
    ("body", "status", "raised"),
    [
        ({}, 200, StoreUnavailable),
        (
            {"lease": {"pa": "192.0.2", "vsid": 5001, "ca": "10.0.1.5", "node": "edge-1"}},
            200,
            StoreUnavailable,
        ),
        ([], 200, StoreUnavailable),
        ({"reason": "because"}, 409, Unacceptable),
        ({"reason": "address-taken", "pa": "none"}, 409, Unacceptable),
    ],
)
def test_answer_that_makes_no_sense_is_no_lease(body: object, status: int, raised: type[Exception]) -> None:
    async def main() -> None:
        async with running(says(body, status)) as node, LookupClient(LookupAccess((node.url,))) as client:
            with pytest.raises(raised):
                await client.lease(WEB, SERVER)

    asyncio.run(main())
