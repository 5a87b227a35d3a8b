"""The lookup service by HTTP, until it is cancelled; and beside it whatever else is asked there."""

from __future__ import annotations

from collections.abc import Callable

from gateway.http.door import Door
from gateway.http.service import listening
from gateway.lookup.alerts import AlertKind
from gateway.lookup.authority import Authority
from gateway.lookup.http.calls import Node
from gateway.lookup.http.openapi import document
from gateway.lookup.http.routes import document_route, lookup_routes
from gateway.lookup.http.watches import Watches
from gateway.lookup.replica import Replica
from policies.model import LookupSettings

SECTION = "lookup"


async def serve(
    settings: LookupSettings,
    authority: Authority,
    replica: Replica,
    door: Door,
    *,
    started: Callable[[int], None],
) -> None:
    """Answer requests until cancelled. `started` is told the port once it is open.

    Raises ConfigurationError where this would open the records to everybody, and where a file
    or the address is not as it should be.
    """
    watches = Watches(replica)
    door.stranger = lambda words: authority.alerts.tell(AlertKind.UNKNOWN, words)
    node = Node(authority, replica, watches, door)
    routes = (*lookup_routes(node), document_route(document()))
    async with listening(settings, SECTION, routes, door, leaving=watches.close) as port:
        started(port)
        await watches.run()
