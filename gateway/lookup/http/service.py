"""The lookup service by HTTP, until it is cancelled; and beside it what else is asked there."""

from __future__ import annotations

from collections.abc import Callable

from gateway.http.door import Door
from gateway.http.interface import Interface, joined
from gateway.http.measures import Measures
from gateway.http.service import listening
from gateway.lookup.alerts import AlertKind
from gateway.lookup.authority import Authority
from gateway.lookup.http.calls import Node
from gateway.lookup.http.openapi import TITLE, paths
from gateway.lookup.http.openapi_schemas import components
from gateway.lookup.http.routes import lookup_routes
from gateway.lookup.http.watches import Watches
from gateway.lookup.replica import Replica
from policies.services import LookupSettings

SECTION = "lookup"

Beside = Callable[[Node], Interface]
"""What else a node answers, at the same listener."""


async def serve(
    settings: LookupSettings,
    authority: Authority,
    replica: Replica,
    door: Door,
    *,
    started: Callable[[int], None],
    beside: Beside | None = None,
) -> None:
    """Answer requests until cancelled. `started` is told the port once it is open.

    Raises ConfigurationError where this would open the records to everybody, and where a file
    or the address is not as it should be.
    """
    watches, measures = Watches(replica), Measures()
    door.stranger = lambda words: authority.alerts.tell(AlertKind.UNKNOWN, words)
    node = Node(authority, replica, watches, door, measures)
    interfaces = [Interface(lookup_routes(node), paths(), components(), watches.close)]
    if beside is not None:
        interfaces.append(beside(node))

    def leave() -> None:
        for each in interfaces:
            each.leaving()

    routes = joined(TITLE, *interfaces)
    async with listening(settings, SECTION, routes, door, measures=measures, leaving=leave) as port:
        started(port)
        await watches.run()
