"""Which handler answers which request to a lookup node, and how its failures are answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.http.calls import Call
from gateway.http.problems import HttpProblem
from gateway.http.routes import Handler, Route
from gateway.lookup.authority import NoRecord
from gateway.lookup.claims import Refused
from gateway.lookup.http import leases, reads, watch, writes
from gateway.lookup.http.calls import LookupCall, Node
from gateway.lookup.network import AddressTaken
from gateway.lookup.outcomes import Forbidden, NoLease, Unacceptable
from gateway.lookup.store import Conflict, StoreUnavailable, Taken

log = logging.getLogger("isthmus.lookup")

Answering = Callable[[LookupCall], Awaitable[web.StreamResponse]]

_RECORD = "/v1/records/{vsid}/{ca}"

# These know their queries; the others have none.
_WITH_QUERY = {reads.list_records, leases.list_leases, watch.watch, writes.put_network}

_HANDLERS: tuple[tuple[str, str, Answering], ...] = (
    ("GET", _RECORD, reads.get_record),
    ("PUT", _RECORD, writes.put_record),
    ("DELETE", _RECORD, writes.delete_record),
    ("POST", f"{_RECORD}/unfreeze", writes.unfreeze_record),
    ("POST", "/v1/resolve", reads.resolve),
    ("GET", "/v1/records", reads.list_records),
    ("POST", "/v1/claims", writes.claim),
    ("POST", "/v1/hints", writes.hint),
    ("POST", "/v1/acknowledgements", writes.acknowledge),
    ("POST", "/v1/leases", leases.lease),
    ("POST", "/v1/leases/return", leases.return_leases),
    ("GET", "/v1/leases", leases.list_leases),
    ("GET", "/v1/pools", leases.get_pools),
    ("GET", "/v1/nodes", reads.get_nodes),
    ("GET", "/v1/watch", watch.watch),
    ("GET", "/v1/network", reads.get_network),
    ("PUT", "/v1/network", writes.put_network),
    ("GET", "/v1/tenants", reads.get_tenants),
    ("GET", "/v1/sites", reads.get_sites),
    ("GET", "/v1/status", reads.get_status),
)
_OPEN: tuple[tuple[str, Answering], ...] = (("/healthz", reads.healthz), ("/readyz", reads.readyz))


def lookup_routes(node: Node) -> tuple[Route, ...]:
    """Return the paths of a lookup node."""
    behind = [
        Route(method, path, _answering(node, handler), has_query=handler in _WITH_QUERY)
        for method, path, handler in _HANDLERS
    ]
    return (*behind, *(Route("GET", path, _answering(node, each), is_open=True) for path, each in _OPEN))


def _answering(node: Node, handler: Answering) -> Handler:
    """Return a handler whose failures are problems."""

    async def answered(call: Call) -> web.StreamResponse:
        try:
            return await handler(LookupCall(call, node))
        except Refused as refused:
            raise writes.refused_problem(refused) from None
        except NoLease as error:
            raise leases.no_lease_problem(error) from None
        except Taken as taken:
            raise leases.taken_problem(taken) from None
        except AddressTaken as error:
            raise leases.taken_problem(error.taken, str(error)) from None
        except Conflict as conflict:
            extra = {"current": writes.current_form(conflict.current)}
            raise HttpProblem(412, f"{conflict.key} is not as expected", extra=extra) from None
        except Forbidden as error:
            raise HttpProblem(403, str(error)) from None
        except Unacceptable as error:
            raise HttpProblem(422, str(error)) from None
        except NoRecord as error:
            raise HttpProblem(404, str(error)) from None
        except StoreUnavailable as error:
            log.warning("the store is not available: %s", error, extra={"event": "store-failed"})
            raise HttpProblem(503, "the store is not available", headers={"Retry-After": "1"}) from None

    return answered
