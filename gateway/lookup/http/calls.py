"""One request to a lookup node: who asks, what they see, and what is read of their path."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import msgspec

from gateway.http.calls import Bound, Call, read_number, read_text
from gateway.http.door import Door
from gateway.http.measures import Measures
from gateway.http.principals import Principal
from gateway.http.problems import HttpProblem
from gateway.lookup.authority import Authority
from gateway.lookup.entries import RecordKey
from gateway.lookup.http.watches import Watches
from gateway.lookup.limits import LARGEST_NUMBER, MOST_LISTED
from gateway.lookup.records_wire import customer_address
from gateway.lookup.replica import Replica
from gateway.lookup.visibility import View, vsids_of
from policies.addresses import HIGHEST_VSID, LOWEST_VSID, CustomerAddress, Vsid
from policies.model import Network
from policies.services import Role

LARGE = Bound(64 << 20, 60.0)
"""For an operator's network."""

VSID_RANGE = msgspec.Meta(ge=LOWEST_VSID, le=HIGHEST_VSID)
VsidNumber = Annotated[int, VSID_RANGE]
RevisionNumber = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_NUMBER)]


class Node(msgspec.Struct, frozen=True):
    """What a lookup node answers by."""

    authority: Authority
    replica: Replica
    watches: Watches
    door: Door
    measures: Measures

    def view(self, principal: Principal) -> View:
        """What somebody may see."""
        return self.authority.views.of(principal)

    def status(self, principal: Principal) -> dict[str, object]:
        """Return how this node is. Alerts are for operators and gateways."""
        replica, authority = self.replica, self.authority
        status: dict[str, object] = {
            "revision": replica.revision,
            "records": len(replica),
            "synced": replica.is_synced,
            "stale_seconds": self.stale_seconds(),
            "nodes": len(authority.followers.nodes()),
            "watches": len(self.watches),
            "convergence": authority.followers.convergence(),
        }
        if principal.role in {Role.OPERATOR, Role.GATEWAY}:
            status["alerts"] = list(authority.alerts.last)
            status["alert_counts"] = {kind.value: count for kind, count in authority.alerts.counts.items()}
        return status

    def network(self, principal: Principal) -> Network:
        """Return the network as somebody may see it. Raises HttpProblem while it is not known."""
        self.must_know()
        return self.view(principal).network(self.replica.network)

    def stale_seconds(self) -> float:
        """Return for how many seconds the store has not been reached."""
        since = self.replica.stale_since
        return 0.0 if since is None else max(0.0, asyncio.get_running_loop().time() - since)

    def must_know(self) -> None:
        """Raise HttpProblem while this node has not read everything: what it lacks may be there."""
        if not self.replica.has_contents:
            raise HttpProblem(503, "this node has not read the records yet", headers={"Retry-After": "1"})


class LookupCall(Call):
    """One request to a lookup node."""

    __slots__ = ("authority", "node", "replica", "watches")

    def __init__(self, call: Call, node: Node) -> None:
        super().__init__(call.request, call.principal, call.parts, call.query_text)
        self.node = node
        self.authority = node.authority
        self.replica = node.replica
        self.watches = node.watches

    @property
    def view(self) -> View:
        """What whoever asks may see."""
        return self.node.view(self.principal)

    def must_know(self) -> None:
        """Raise HttpProblem while this node has not read everything."""
        self.node.must_know()

    def seen(self, vsids: Iterable[Vsid], tenant: str | None) -> Iterator[Vsid]:
        """Yield those virtual subnets that whoever asks sees; of one tenant alone, if it is named."""
        view = self.view
        of_tenant = None if tenant is None else vsids_of(self.replica.network, {tenant})
        for vsid in vsids:
            if (of_tenant is None or vsid in of_tenant) and view.sees(vsid):
                yield vsid

    def record_key(self) -> RecordKey:
        """Return the record that the path names. Raises HttpProblem."""
        return RecordKey(read_vsid("vsid", self.parts[0]), read_address("ca", self.parts[1]))


def read_limit(query: Mapping[str, str]) -> int:
    """Read how much a page may have. Raises HttpProblem."""
    return read_number("limit", query["limit"], 1, MOST_LISTED) if "limit" in query else MOST_LISTED


def read_vsid(path: str, text: str) -> Vsid:
    """Read a VSID from text. Raises HttpProblem."""
    return Vsid(read_number(path, text, LOWEST_VSID, HIGHEST_VSID))


def read_address(path: str, text: str) -> CustomerAddress:
    """Read a customer address from text. Raises HttpProblem."""
    return read_text(customer_address, path, text)
