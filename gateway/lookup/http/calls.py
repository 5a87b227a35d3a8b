"""One request to a lookup node: who asks, what they see, and what is read of their path."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.http.calls import Bound, Call, read_number, read_text
from gateway.http.door import Door
from gateway.http.principals import Principal
from gateway.http.problems import HttpProblem
from gateway.lookup.authority import Authority
from gateway.lookup.entries import RecordKey
from gateway.lookup.http.watches import Watches
from gateway.lookup.limits import LARGEST_NUMBER
from gateway.lookup.records_wire import customer_address
from gateway.lookup.replica import Replica
from gateway.lookup.visibility import View
from policies.addresses import HIGHEST_VSID, LOWEST_VSID, CustomerAddress, Vsid

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

    def view(self, principal: Principal) -> View:
        """What somebody may see."""
        return self.authority.views.of(principal)

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

    def record_key(self) -> RecordKey:
        """Return the record that the path names. Raises HttpProblem."""
        return RecordKey(read_vsid("vsid", self.parts[0]), read_address("ca", self.parts[1]))


def read_vsid(path: str, text: str) -> Vsid:
    """Read a VSID from text. Raises HttpProblem."""
    return Vsid(read_number(path, text, LOWEST_VSID, HIGHEST_VSID))


def read_address(path: str, text: str) -> CustomerAddress:
    """Read a customer address from text. Raises HttpProblem."""
    return read_text(customer_address, path, text)
