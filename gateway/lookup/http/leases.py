"""Provider addresses of pools: leased, returned, listed, and how the pools are used."""

from __future__ import annotations

from heapq import nsmallest
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.http.calls import answer, read_text
from gateway.http.problems import HttpProblem
from gateway.lookup import forms
from gateway.lookup.answers import ADDRESS_TAKEN
from gateway.lookup.http.calls import LookupCall, VsidNumber, read_address, read_limit, read_vsid
from gateway.lookup.http.writes import Name, current_form
from gateway.lookup.limits import MOST_RETURNED
from gateway.lookup.outcomes import WHY_NO_LEASE, NoLease
from gateway.lookup.records_wire import lease_text, provider_address, record_text
from gateway.lookup.store import Taken
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord
from policies.services import Role


class LeaseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A customer address that somebody wants to reach who can only rewrite."""

    vsid: VsidNumber
    ca: str
    gateway: Name | None = None


class ReturnBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses of a gateway's pools that nobody uses any more."""

    pas: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_RETURNED)]


_LEASE = msgspec.json.Decoder(LeaseBody)
_RETURN = msgspec.json.Decoder(ReturnBody)

_Place = tuple[Vsid, CustomerAddress, ProviderAddress]


async def lease(call: LookupCall) -> web.StreamResponse:
    """Have an address stand for a customer address that has none of its own."""
    body = await call.body(_LEASE)
    ca = read_address("ca", body.ca)
    found = await call.authority.lease(call.principal, Vsid(body.vsid), ca, body.gateway)
    if isinstance(found, LookupRecord):
        return answer(f'{{"record":{record_text(found)}}}'.encode())
    return answer(f'{{"lease":{_text(found)}}}'.encode())


async def return_leases(call: LookupCall) -> web.StreamResponse:
    """Return addresses."""
    body = await call.body(_RETURN)
    pas = [read_text(provider_address, f"pas[{number}]", text) for number, text in enumerate(body.pas)]
    await call.authority.return_leases(call.principal, pas)
    return web.Response(status=204)


async def list_leases(call: LookupCall) -> web.StreamResponse:
    """Leases page by page, in the order of their VSIDs and customer addresses."""
    query = call.query("tenant", "node", "limit", "continue")
    limit = read_limit(query)
    call.must_know()
    after = _continued(query["continue"]) if "continue" in query else None
    revision = call.replica.revision
    found: list[Lease] = []
    for vsid in call.seen(call.replica.granted.leased_vsids(), query.get("tenant")):
        if (after is None or vsid >= after[0]) and len(found) <= limit:
            wanted = (
                each
                for each in call.replica.granted.leases_in(vsid)
                if query.get("node") in (None, each.node) and (after is None or _place(each) > after)
            )
            found += nsmallest(limit + 1 - len(found), wanted, key=_place)
    further = "null"
    if len(found) > limit:
        last = found[limit - 1]
        further = f'"{last.vsid}/{last.ca}/{last.pa}"'
    leases = ",".join(map(_text, found[:limit]))
    return answer(f'{{"leases":[{leases}],"continue":{further},"revision":{revision}}}'.encode())


async def get_pools(call: LookupCall) -> web.StreamResponse:
    """How the pools are used."""
    if call.principal.role is not Role.OPERATOR:
        raise call.authority.refuse(call.principal, "list of pools", "only an operator may")
    call.must_know()
    return answer(msgspec.json.encode([forms.form(pool) for pool in call.authority.granting.usage()]))


def no_lease_problem(error: NoLease) -> HttpProblem:
    """Return how somebody is answered who gets no lease."""
    return HttpProblem(409, WHY_NO_LEASE[error.reason], extra={"reason": error.reason.value})


def taken_problem(taken: Taken, words: str | None = None) -> HttpProblem:
    """Return how somebody is answered who asks for an address that another has; `words` are better ones."""
    whose = "another record's" if taken.holder is not None else "leased by a gateway, or in quarantine"
    extra = {"reason": ADDRESS_TAKEN, "pa": str(taken.key.pa), "current": current_form(taken.holder)}
    return HttpProblem(409, words or f"{taken.key.pa} is {whose}", extra=extra)


def _text(found: Lease) -> str:
    return f'{lease_text(found)[:-1]},"revision":{found.revision}}}'


def _place(found: Lease) -> _Place:
    return found.vsid, found.ca, found.pa


def _continued(text: str) -> _Place:
    vsid, _, rest = text.partition("/")
    ca, _, pa = rest.partition("/")
    read = read_vsid("continue", vsid), read_address("continue", ca)
    return *read, read_text(provider_address, "continue", pa)
