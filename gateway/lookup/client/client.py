"""The lookup service's client, for asyncio. `gateway.lookup_client` is the same for trio.

Every call asks another node where one does not answer, so every write may be carried out twice,
the second time without its first answer having been seen. Each says why that is no harm.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Self, TypeVar

from gateway.lookup import forms
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.answers import (
    ClaimForm,
    Hint,
    LeaseAnswerForm,
    LeasePageForm,
    RecordForm,
    RecordPage,
    RecordPageForm,
    Resolved,
    ResolvedForm,
    raise_no_lease,
)
from gateway.lookup.claims import Mode
from gateway.lookup.client.cache import Cache
from gateway.lookup.client.copies import Copies
from gateway.lookup.client.nodes import PATIENCE, Nodes, Reply
from gateway.lookup.client.replies import (
    answered,
    body_of,
    check,
    has_current,
    in_words,
    making_sense,
    path_of,
    precondition,
    query_of,
    read_form,
)
from gateway.lookup.client.watch import Watch
from gateway.lookup.entries import Event, Kind, RecordKey
from gateway.lookup.followers import NodeStatus
from gateway.lookup.limits import MOST_HINTS, MOST_LISTED, MOST_RESOLVED, MOST_RETURNED
from gateway.lookup.outcomes import ClaimAnswer, Unacceptable
from gateway.lookup.store import Conflict, Expect, Expected, StoreUnavailable, Taken
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, Network, Translation
from policies.services import LookupAccess

T = TypeVar("T")

CACHED_RECORDS = 65536
CACHED_SECONDS = 30.0
CACHED_SECONDS_ABSENT = 2.0
ACKNOWLEDGEMENTS = "/v1/acknowledgements"
STALE = 10.0
"""Seconds without its store after which another node's answer is rather taken, if there is one."""


class LookupClient:
    """Asks the lookup service, within `async with`.

    Every call raises StoreUnavailable where no node answers, Forbidden, and Unacceptable.
    `async with` raises ConfigurationError for a credential's file that cannot be read.
    """

    def __init__(
        self, access: LookupAccess, *, cached: int = CACHED_RECORDS, cached_seconds: float = CACHED_SECONDS
    ) -> None:
        self._access = access
        self._cache = Cache(cached, cached_seconds, min(cached_seconds, CACHED_SECONDS_ABSENT))
        self._nodes = Nodes(access)
        self._acknowledged = Copies(self._nodes, ACKNOWLEDGEMENTS)

    async def __aenter__(self) -> Self:
        await self._nodes.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._acknowledged.close()
        await self._nodes.close()

    async def resolve(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Return where a customer address is, or None if there is no record of it.

        From the cache where that is fresh; the first time, two nodes are asked at once.
        """
        return (await self.resolve_many([(vsid, ca)]))[0]

    async def resolve_many(self, wanted: Sequence[tuple[Vsid, CustomerAddress]]) -> list[LookupRecord | None]:
        """Return where customer addresses are, in their order."""
        now = time.monotonic()
        keys = [RecordKey(vsid, ca) for vsid, ca in wanted]
        found: dict[RecordKey, LookupRecord | None] = {}
        missing: dict[RecordKey, bool] = {}
        for key in keys:
            known = self._cache.find(key, now)
            if known is not None:
                found[key] = known[0]
            else:
                missing[key] = key not in self._cache
        asked = list(missing)
        for start in range(0, len(asked), MOST_RESOLVED):
            some = asked[start : start + MOST_RESOLVED]
            answer = await self._resolved(some, at_once=2 if any(missing[key] for key in some) else 1)
            for key, record in zip(some, answer.records, strict=True):
                found[key] = self._cache.answered(key, record, answer.revision, now)
        return [found[key] for key in keys]

    async def page(
        self,
        *,
        tenant: str | None = None,
        vsid: Vsid | None = None,
        limit: int = MOST_LISTED,
        rest: str | None = None,
    ) -> RecordPage:
        """Return some records in the order of keys; `rest` of the page before asks for the next."""
        query = query_of(tenant=tenant, vsid=vsid, limit=limit, **{"continue": rest})
        answer = answered(RecordPageForm, await self._nodes.ask("GET", "/v1/records", query=query))
        return RecordPage(tuple(each.record() for each in answer.records), answer.rest, answer.revision)

    async def records(
        self, *, tenant: str | None = None, vsid: Vsid | None = None
    ) -> AsyncGenerator[LookupRecord, None]:
        """Yield all records of a tenant or a virtual subnet, or all there are."""
        rest = None
        while True:
            page = await self.page(tenant=tenant, vsid=vsid, rest=rest)
            for record in page.records:
                yield record
            if (rest := page.rest) is None:
                return

    async def put(
        self,
        vsid: Vsid,
        ca: CustomerAddress,
        *,
        mac: MacAddress,
        host: str,
        pa: ProviderAddress | None = None,
        translation: Translation | None = None,
        expected: Expected = Expect.ABSENT,
    ) -> LookupRecord:
        """Write a record whose epoch is `expected`, or that is absent, or is there at all (ANY).

        Without a provider address, it is the host's first; of a rewritten record, one of its pools. Raises
        Conflict with the present record, Taken with that whose provider address it is, and Refused for
        a static one, or where the pools have no address left. Repeated, the
        precondition fails if the first has been carried out: the record is then as wanted already.
        """
        key = RecordKey(vsid, ca)
        body = body_of(mac=mac, pa=pa, host=host, translation=translation)
        reply = await self._nodes.ask("PUT", path_of(key), body=body, headers=precondition(expected))
        self._cache.forget(key)
        try:
            return answered(RecordForm, reply, key).record()
        except Conflict as conflict:
            present = conflict.current.record if conflict.current is not None else None
            if present is None or not reply.is_repeated:
                raise
            wanted = (mac, pa or present.pa, host, translation or present.translation)
            if (present.mac, present.pa, present.host, present.translation) != wanted:
                raise
            return present

    async def delete(self, vsid: Vsid, ca: CustomerAddress, expected: int | None = None) -> bool:
        """Delete a record, of this epoch if one is given. Returns whether there was one.

        Raises Conflict with the present record, and Refused for a static one. Repeated, there is
        no record any more; one that somebody else has made meanwhile has another epoch.
        """
        key = RecordKey(vsid, ca)
        headers = precondition(Expect.ANY if expected is None else expected)
        reply = await self._nodes.ask("DELETE", path_of(key), headers=headers)
        self._cache.forget(key)
        if reply.status == 404 or (reply.status == 412 and reply.is_repeated and not has_current(reply)):
            return reply.is_repeated
        check(reply, key)
        return True

    async def unfreeze(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Let a record move again that has moved too often; None if there is none. Twice is as once."""
        key = RecordKey(vsid, ca)
        reply = await self._nodes.ask("POST", f"{path_of(key)}/unfreeze")
        return None if reply.status == 404 else answered(RecordForm, reply, key).record()

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode = Mode.ANNOUNCE,
        addresses: Iterable[CustomerAddress] = (),
        host: str | None = None,
        wait: Iterable[str] | None = None,
        wait_seconds: float | None = None,
    ) -> ClaimAnswer:
        """Say that a MAC is at a provider address, with all of its customer addresses.

        `wait` names those that have to learn it before this returns; an orchestrated claim
        waits for the old and the new host by itself. Raises Refused with the record in its way.
        Repeated, a claim changes nothing that it has changed before; a few seconds lie between at most.
        """
        body = body_of(
            vsid=vsid,
            mac=mac,
            pa=pa,
            mode=mode,
            addresses=tuple(addresses) or None,
            host=host,
            wait=tuple(wait) if wait is not None else None,
            wait_ms=round(wait_seconds * 1000) if wait_seconds is not None else None,
        )
        patience = PATIENCE + (wait_seconds or 0.0)
        answer = answered(
            ClaimForm, await self._nodes.ask("POST", "/v1/claims", body=body, patience=patience)
        )
        records = tuple(each.record() for each in answer.records)
        for record in records:
            self._cache.forget(RecordKey(record.vsid, record.ca))
        return ClaimAnswer(records, answer.learned)

    async def hint(self, host: str, vsid: Vsid, ca: CustomerAddress, forget: bool = False) -> None:
        """Have a host taught a record that it lacks, or no longer told of it."""
        await self.hints([Hint(host, vsid, ca, forget)])

    async def hints(self, hints: Sequence[Hint]) -> None:
        """Give many hints, to every node that answers: one of them has the host's watch.

        Twice is as once: a host is taught what it knows already, and forgets nothing.
        """
        for start in range(0, len(hints), MOST_HINTS):
            body = [forms.form(hint) for hint in hints[start : start + MOST_HINTS]]
            check(await self._nodes.ask_all("POST", "/v1/hints", body=body))

    async def acknowledge(self, revision: int) -> None:
        """Say that this host or gateway has applied everything up to a revision. Twice is as once.

        The node of this client's watch has been told when this returns; the others are told besides,
        as they answer, so that a claim at any of them knows who has learned.
        """
        body = {"revision": revision}
        self._acknowledged.tell(body)
        check(await self._nodes.ask("POST", ACKNOWLEDGEMENTS, body=body, first=self._nodes.first))

    async def lease(
        self, vsid: Vsid, ca: CustomerAddress, gateway: str | None = None
    ) -> Lease | LookupRecord:
        """Have an address of a gateway's pool stand for a customer address that has none of its own.

        One that has its own, being rewritten, has its record returned. Only an operator says which gateway
        it is. Raises NoLease. Repeated, what has been leased is returned as it is.
        """
        body = body_of(vsid=vsid, ca=ca, gateway=gateway)
        reply = await self._nodes.ask("POST", "/v1/leases", body=body)
        if reply.status == 409:
            raise_no_lease(reply.status, reply.body)
        found = answered(LeaseAnswerForm, reply)
        with making_sense():
            if found.lease is not None:
                return found.lease.lease()
            if found.record is not None:
                return found.record.record()
            raise forms.Malformed("neither a lease nor a record")

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        """Say that addresses of this gateway's pools are not in use any more; an operator may for any.

        Repeated, they may have been leased anew meanwhile, which is undone: whoever uses them asks again.
        """
        for start in range(0, len(pas), MOST_RETURNED):
            body = {"pas": [str(pa) for pa in pas[start : start + MOST_RETURNED]]}
            check(await self._nodes.ask("POST", "/v1/leases/return", body=body))

    async def leases(
        self, *, tenant: str | None = None, node: str | None = None
    ) -> AsyncGenerator[Lease, None]:
        """Yield all leases of a tenant or a gateway, or all there are, in the order of customer addresses."""
        rest = None
        while True:
            query = query_of(tenant=tenant, node=node, **{"continue": rest})
            page = answered(LeasePageForm, await self._nodes.ask("GET", "/v1/leases", query=query))
            with making_sense():
                leases = [each.lease() for each in page.leases]
            for each in leases:
                yield each
            if (rest := page.rest) is None:
                return

    async def pools(self) -> list[PoolUsage]:
        """Return how the pools of provider addresses are used: for operators."""
        found = answered(list[Any], await self._nodes.ask("GET", "/v1/pools"))
        return [read_form(PoolUsage, each, "pool") for each in found]

    async def nodes(self) -> list[NodeStatus]:
        """Return the hosts and gateways that are connected to any node, and what they have learned."""
        found: dict[str, NodeStatus] = {}
        for reply in await self._nodes.replies("GET", "/v1/nodes"):
            for each in answered(list[NodeStatus], reply):
                # One that has gone to another node may still be listed where it was.
                if each.name not in found or each.connected_seconds < found[each.name].connected_seconds:
                    found[each.name] = each
        return [found[name] for name in sorted(found)]

    async def network(self) -> Network:
        """Return the network's configuration as this credential may see it."""
        found = answered(dict[str, Any], await self._nodes.ask("GET", "/v1/network"))
        parts = {name: found[name] for name in Network.__struct_fields__ if name in found}
        return read_form(Network, parts, "network")

    async def apply(self, network: Network, *, dry_run: bool = False) -> list[dict[str, Any]]:
        """Have the network be as given, and return what that changes, or would change.

        What is written is the difference: repeated, it is what is still missing of it.
        Raises Unacceptable, also where a static record's provider address is another's.
        """
        query = {"dry_run": "true"} if dry_run else None
        body = {name: forms.form(getattr(network, name)) for name in Network.__struct_fields__}
        reply = await self._nodes.ask("PUT", "/v1/network", body=body, query=query, patience=60.0)
        try:
            found = answered(dict[str, list[dict[str, Any]]], reply)
        except Taken:
            # Of all static records it is the words that say which one wants the address.
            raise Unacceptable(in_words(reply)) from None
        return found.get("changes", [])

    async def status(self) -> dict[str, Any]:
        """Return what a node says of itself."""
        return answered(dict[str, Any], await self._nodes.ask("GET", "/v1/status"))

    def watch(
        self,
        *,
        tenant: str | None = None,
        vsid: Vsid | None = None,
        kind: Kind | None = None,
        only_used: bool = False,
        after: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield every change after a revision; without one, everything there is, after a Reset.

        Goes on by itself, at another node if need be, until it is closed (`contextlib.aclosing`).
        After a Reset, everything is told anew until the next Progress: what is not told then is gone.
        A change may be told twice; its revision says which is newer. While it runs, the cache is
        right in what it tells of.
        """
        return self.new_watch(tenant=tenant, vsid=vsid, kind=kind, only_used=only_used).for_ever(after)

    def new_watch(
        self,
        *,
        tenant: str | None = None,
        vsid: Vsid | None = None,
        kind: Kind | None = None,
        only_used: bool = False,
    ) -> Watch:
        """Return a watch whose connections are the caller's to begin again."""
        only = "used" if only_used else None
        # Which records a tenant has, or a host is taught, is for the service to know: the cache cannot tell.
        keeps = tenant is None and not only_used and kind in (None, Kind.RECORD)
        query = query_of(tenant=tenant, vsid=vsid, kind=kind.value if kind is not None else None, only=only)
        return Watch(self._nodes, self._cache, query, keeps=keeps, vsid=vsid)

    async def _resolved(self, keys: Sequence[RecordKey], *, at_once: int) -> Resolved:
        """Ask for records. The first answer that has all of them, of a node that is not cut off, is taken."""
        body = [{"vsid": key.vsid, "ca": str(key.ca)} for key in keys]
        answers: dict[bytes, Resolved] = {}

        def worth(reply: Reply) -> float:
            if reply.status != 200:
                return 1.0  # a refusal is the same at every node
            try:
                answer = answers[reply.body] = _resolved(reply, len(keys))
            except StoreUnavailable:
                return 0.0
            if answer.stale_seconds > STALE:
                return 0.1
            return 0.5 if at_once > 1 and None in answer.records else 1.0

        reply = await self._nodes.ask("POST", "/v1/resolve", body=body, at_once=at_once, worth=worth)
        return answers[reply.body] if reply.body in answers else _resolved(reply, len(keys))


def _resolved(reply: Reply, count: int) -> Resolved:
    answer = answered(ResolvedForm, reply)
    if len(answer.records) != count:
        raise StoreUnavailable(f"a node answers {len(answer.records)} of {count} questions")
    records = tuple(each.record() if each is not None else None for each in answer.records)
    return Resolved(records, answer.revision, answer.stale_seconds or 0.0)
