"""What is read: records one by one, in batches and page by page; the network; and how this node is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.http.calls import answer
from gateway.http.problems import HttpProblem
from gateway.lookup.forms import form
from gateway.lookup.http.calls import VSID_RANGE, LookupCall, read_address, read_limit, read_vsid
from gateway.lookup.limits import MOST_LISTED, MOST_RESOLVED
from gateway.lookup.records_wire import customer_address, record_text
from gateway.lookup.replica import Replica
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord
from policies.services import Role


class Wanted(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A customer address that is looked for."""

    vsid: Annotated[Vsid, VSID_RANGE]
    ca: str


_WANTED = msgspec.json.Decoder(Annotated[list[Wanted], msgspec.Meta(max_length=MOST_RESOLVED)])


async def get_record(call: LookupCall) -> web.StreamResponse:
    """One record."""
    key = call.record_key()
    record = call.replica.find(key.vsid, key.ca) if call.view.sees(key.vsid) else None
    if record is None:
        call.must_know()
        raise HttpProblem(404, f"there is no {key}")
    etag = f'"{record.epoch}"'
    if call.request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag})
    return answer(record_text(record).encode(), headers={"ETag": etag})


async def resolve(call: LookupCall) -> web.StreamResponse:
    """Up to a thousand records at once."""
    wanted = await call.body(_WANTED)
    replica = call.replica
    find = replica.find
    vsids = call.view.vsids
    found: list[str] = []
    try:
        for one in wanted:
            ca = customer_address(one.ca)
            record = find(one.vsid, ca) if vsids is None or one.vsid in vsids else None
            # An IPv4 address has one notation, so that what was read can be written.
            text = one.ca if len(ca) == 4 else None
            found.append("null" if record is None else record_text(record, text))
    except ValueError as error:
        raise HttpProblem(400, f"[{len(found)}].ca: {error}") from None
    call.must_know()
    stale = call.node.stale_seconds()
    text = f'{{"records":[{",".join(found)}],"revision":{replica.revision},"stale_seconds":{stale:.3f}}}'
    return answer(text.encode())


async def list_records(call: LookupCall) -> web.StreamResponse:
    """Records page by page, in the order of their VSIDs and addresses."""
    query = call.query("tenant", "vsid", "limit", "continue")
    limit = read_limit(query)
    only = read_vsid("vsid", query["vsid"]) if "vsid" in query else None
    call.must_know()
    after_vsid, after = _continued(query["continue"]) if "continue" in query else (Vsid(0), None)
    revision = call.replica.revision
    found: list[LookupRecord] = []
    for vsid in call.seen(call.replica.vsids(), query.get("tenant")):
        if (only is None or vsid == only) and vsid >= after_vsid and len(found) <= limit:
            start = after if vsid == after_vsid else None
            found += call.replica.records(vsid, start, limit + 1 - len(found))
    further = "null"
    if len(found) > limit:
        last = found[limit - 1]
        further = f'"{last.vsid}/{last.ca}"'
    records = ",".join(map(record_text, found[:limit]))
    return answer(f'{{"records":[{records}],"continue":{further},"revision":{revision}}}'.encode())


async def get_network(call: LookupCall) -> web.StreamResponse:
    """The network's configuration as whoever asks may see it, with its static records."""
    call.must_know()
    network = call.view.network(call.replica.network)
    owners = {subnet.vsid: tenant.name for tenant in network.tenants for subnet in tenant.subnets}
    pins: dict[str, list[LookupRecord]] = {}
    for vsid, tenant in owners.items():
        async for record in _all_records(call.replica, vsid):
            if not record.epoch:
                pins.setdefault(tenant, []).append(msgspec.structs.replace(record, revision=0))
    tenants = tuple(
        msgspec.structs.replace(tenant, records=tuple(pins.get(tenant.name, ())))
        for tenant in network.tenants
    )
    network = msgspec.structs.replace(network, tenants=tenants)
    return answer(msgspec.json.encode({"hosts": [], "gateways": [], "tenants": [], **form(network)}))


async def get_tenants(call: LookupCall) -> web.StreamResponse:
    """The tenants."""
    call.must_know()
    return answer(msgspec.json.encode(form(call.view.network(call.replica.network).tenants)))


async def get_sites(call: LookupCall) -> web.StreamResponse:
    """The sites of all tenants."""
    call.must_know()
    network = call.node.network(call.principal)
    sites = [{"tenant": tenant.name, **form(site)} for tenant in network.tenants for site in tenant.sites]
    return answer(msgspec.json.encode(sites))


async def get_nodes(call: LookupCall) -> web.StreamResponse:
    """The hosts and gateways that follow this node. A host sees itself."""
    if call.principal.role is Role.READER:
        raise call.authority.refuse(call.principal, "list of nodes", "a reader may not")
    nodes = call.authority.followers.nodes()
    if call.principal.role is Role.HOST:
        nodes = [node for node in nodes if node.name == call.principal.name]
    return answer(msgspec.json.encode(nodes))


async def get_status(call: LookupCall) -> web.StreamResponse:
    """How this node is. Alerts are for operators and gateways."""
    return answer(msgspec.json.encode(call.node.status(call.principal)))


async def healthz(_call: LookupCall) -> web.StreamResponse:
    """This node is alive."""
    return answer(b'{"status":"alive"}')


async def readyz(call: LookupCall) -> web.StreamResponse:
    """This node knows everything."""
    call.must_know()
    return answer(b'{"status":"ready"}')


async def _all_records(replica: Replica, vsid: Vsid) -> AsyncIterator[LookupRecord]:
    after: CustomerAddress | None = None
    while records := replica.records(vsid, after, MOST_LISTED):
        after = records[-1].ca
        for record in records:
            yield record
        await asyncio.sleep(0)


def _continued(text: str) -> tuple[Vsid, CustomerAddress]:
    vsid, _, ca = text.partition("/")
    return read_vsid("continue", vsid), read_address("continue", ca)
