"""Which handler answers which request, who asks, and how every failure is answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import unquote, urlsplit

from aiohttp import web

from gateway.lookup.alerts import AlertKind
from gateway.lookup.authority import Authority, NoRecord
from gateway.lookup.claims import Refused
from gateway.lookup.http import reads, watch, writes
from gateway.lookup.http.calls import Call, answer, identify
from gateway.lookup.http.openapi import document
from gateway.lookup.http.problems import CONTENT_TYPE, HttpProblem
from gateway.lookup.http.watches import Watches
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.principals import ANYBODY, Unauthenticated
from gateway.lookup.replica import Replica
from gateway.lookup.store import Conflict, StoreUnavailable

log = logging.getLogger("isthmus.lookup")

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

# These know their queries; the others have none.
_WITH_QUERY = {reads.list_records, watch.watch, writes.put_network}

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Routes:
    """The HTTP interface of a lookup node, as one function of a request.

    `only_loopback`: requests must name this machine as loopback does, or a page in an operator's
    browser could reach us under a name of its own (DNS rebinding).
    """

    def __init__(
        self, authority: Authority, replica: Replica, watches: Watches, *, only_loopback: bool
    ) -> None:
        self._authority = authority
        self._replica = replica
        self._watches = watches
        self._only_loopback = only_loopback
        self._openapi = document()
        record = {
            "GET": reads.get_record,
            "PUT": writes.put_record,
            "DELETE": writes.delete_record,
        }
        self._record: dict[str, Handler] = {**record, "HEAD": reads.get_record}
        self._unfreeze: dict[str, Handler] = {"POST": writes.unfreeze_record}
        self._fixed: dict[str, dict[str, Handler]] = {
            "/v1/resolve": {"POST": reads.resolve},
            "/v1/records": _get(reads.list_records),
            "/v1/claims": {"POST": writes.claim},
            "/v1/hints": {"POST": writes.hint},
            "/v1/acknowledgements": {"POST": writes.acknowledge},
            "/v1/nodes": _get(reads.get_nodes),
            "/v1/watch": _get(watch.watch),
            "/v1/network": {**_get(reads.get_network), "PUT": writes.put_network},
            "/v1/tenants": _get(reads.get_tenants),
            "/v1/sites": _get(reads.get_sites),
            "/v1/status": _get(reads.get_status),
        }
        self._open: dict[str, dict[str, Handler]] = {
            "/healthz": _get(reads.healthz),
            "/readyz": _get(reads.readyz),
            "/openapi.json": _get(self._get_openapi),
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, whatever it is."""
        try:
            return await self._answer(request)
        except HttpProblem as problem:
            return problem_answer(problem)
        except Refused as refused:
            return problem_answer(writes.refused_problem(refused))
        except Conflict as conflict:
            extra = {"current": writes.current_form(conflict.current)}
            return problem_answer(HttpProblem(412, f"{conflict.key} is not as expected", extra=extra))
        except Forbidden as error:
            return problem_answer(HttpProblem(403, str(error)))
        except Unacceptable as error:
            return problem_answer(HttpProblem(422, str(error)))
        except NoRecord as error:
            return problem_answer(HttpProblem(404, str(error)))
        except Unauthenticated as error:
            self._authority.alerts.tell(AlertKind.UNKNOWN, f"{request.remote}: {error}")
            return problem_answer(HttpProblem(401, str(error), headers={"WWW-Authenticate": "Bearer"}))
        except StoreUnavailable as error:
            log.warning("the store is not available: %s", error)
            away = HttpProblem(503, "the store is not available", headers={"Retry-After": "1"})
            return problem_answer(away)
        except ConnectionError:
            raise
        except Exception:
            # A fault of ours ends one request, not the service; the answer says nothing of it.
            log.exception("%s %s failed", request.method, request.raw_path.partition("?")[0][:256])
            return problem_answer(HttpProblem(500, "this is a fault of the service"))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if self._only_loopback:
            _check_host(request)
        method = request.method
        handlers, parts = self._find(path)
        if handlers is None:
            handlers = self._open.get(path)
            if handlers is None:
                raise HttpProblem(404, "there is no such path; see /openapi.json")
            principal = ANYBODY
        else:
            principal = identify(self._authority.credentials, request)
        handler = handlers.get(method)
        if handler is None:
            raise HttpProblem(
                405, f"{method[:16]} is not for this path", headers={"Allow": ", ".join(handlers)}
            )
        if method not in {"GET", "HEAD"}:
            _check_origin(request)
        call = Call(request, principal, parts, query, self._authority, self._replica, self._watches)
        if query and handler not in _WITH_QUERY:
            call.query()
        return await handler(call)

    def _find(self, path: str) -> tuple[dict[str, Handler] | None, tuple[str, ...]]:
        if path.startswith("/v1/records/"):
            parts = path[12:].split("/")
            if "%" in path:
                parts = [unquote(part) for part in parts]
            if len(parts) == 2:
                return self._record, (parts[0], parts[1])
            if len(parts) == 3 and parts[2] == "unfreeze":
                return self._unfreeze, (parts[0], parts[1])
            return None, ()
        return self._fixed.get(path), ()

    async def _get_openapi(self, _call: Call) -> web.StreamResponse:
        return answer(self._openapi)


def problem_answer(problem: HttpProblem) -> web.Response:
    """Return a problem as an answer."""
    headers = {"Content-Type": CONTENT_TYPE, **problem.headers}
    response = web.Response(status=problem.status, body=problem.body, headers=headers)
    if headers.get("Connection") == "close":
        response.force_close()
    return response


def _get(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler, "HEAD": handler}


def _check_host(request: web.BaseRequest) -> None:
    if _name(request.headers.get("Host", "")) not in LOOPBACK_NAMES:
        raise HttpProblem(421, "this service is asked as localhost, 127.0.0.1 or [::1]")


def _check_origin(request: web.BaseRequest) -> None:
    """A browser says which page makes a request; only our own origin's may write."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise HttpProblem(403, "another site's page may not ask this")


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
