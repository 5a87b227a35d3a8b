"""The service does what its OpenAPI document says, whatever it is asked: by schemathesis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from gateway.http.interface import Interface, document
from gateway.http.principals import Principal
from gateway.lookup.entries import Placement, RecordKey
from gateway.lookup.http.openapi import TITLE, paths
from gateway.lookup.http.openapi_schemas import components
from gateway.lookup.store import Expect
from policies.model import Translation
from tests.gateway.lookup.pooled import pooled
from tests.gateway.lookup.serving import (
    BLUE,
    GATEWAY,
    HV1,
    OPERATOR,
    READER,
    TOKENS,
    WEB,
    ca,
    lookup_node,
    mac,
    pa,
    place,
)

EXAMPLES = 10
REFUSED_EXAMPLES = 2
"""Of a whole network, which takes seconds to make up and of which others than operators are refused any."""
DOCUMENT: dict[str, Any] = msgspec.json.decode(document(TITLE, Interface((), paths(), components())))
SCHEMA = openapi.from_dict(DOCUMENT)
METHODS = {"get", "put", "post", "delete"}
# A watch never ends, which is more than this client can wait for: tests of its own read it.
OPERATIONS = [
    (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in item.keys() & METHODS
    if path != "/v1/watch"
]
# Where nothing is asked for, nothing can be asked wrongly.
CASES = [
    (path, method, mode)
    for path, method in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE
    or "parameters" in DOCUMENT["paths"][path]
    or DOCUMENT["paths"][path][method].keys() & {"parameters", "requestBody"}
]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


# What a gateway may besides others is to return leases.
ASKED = [
    (*case, principal)
    for case in CASES
    for principal in (OPERATOR, READER, HV1, GATEWAY)
    if principal is not GATEWAY or "leases" in case[0]
]


@contextmanager
def served() -> Iterator[str]:
    """A lookup node on a thread of its own, with some records, one of them rewritten, and pools."""
    ready = threading.Event()
    found: list[str] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        async with lookup_node(network=pooled()) as node:
            own = Placement(mac(9), pa("203.0.113.9"), "hv1", Translation.REWRITE)
            await node.store.put(RecordKey(WEB, ca("10.0.1.9")), own, Expect.ABSENT)
            for number in range(2, 9):
                await place(node, WEB, f"10.0.1.{number}", number, "hv1")
                await place(node, BLUE, f"10.0.1.{number}", number, "hv3")
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            found.append(f"http://127.0.0.1:{node.port}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(10)
    yield found[0]
    loop, stop = loops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # Revisions that hosts have heard of are made up here: none ever comes, however long it is waited for.
        patch.setattr("gateway.lookup.authority.OWN_REPLICA_SECONDS", 0.05)
        with served() as found:
            yield found


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize(
    ("path", "method", "mode", "principal"), ASKED, ids=lambda each: getattr(each, "role", None)
)
def test_answer_is_as_the_document_says(
    url: str, session: requests.Session, path: str, method: str, principal: Principal, mode: GenerationMode
) -> None:
    operation = SCHEMA[path][method]
    headers = {"Authorization": f"Bearer {TOKENS[principal.name]}"}
    is_refused = (path, method) == ("/v1/network", "put") and principal is not OPERATOR

    @seed(7637)
    @settings(
        max_examples=REFUSED_EXAMPLES if is_refused else EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        case.call_and_validate(base_url=url, session=session, headers=headers, checks=CHECKS)

    ask()


def test_what_is_said_of_leases_is_as_the_document_says(session: requests.Session) -> None:
    headers = {"Authorization": f"Bearer {TOKENS[OPERATOR.name]}"}
    with served() as at:

        def ask(path: str, method: str, **body: Any) -> tuple[int, Any]:
            operation = SCHEMA[path][method]
            case = operation.Case(body=body, media_type="application/json") if body else operation.Case()
            answer = case.call_and_validate(base_url=at, session=session, headers=headers, checks=CHECKS)
            return answer.status_code, msgspec.json.decode(answer.content) if answer.content else None

        status, leased = ask("/v1/leases", "post", vsid=WEB, ca="172.16.0.9")
        assert (status, leased.keys()) == (200, {"lease"})
        status, own = ask("/v1/leases", "post", vsid=WEB, ca="10.0.1.9")
        assert (status, own.keys()) == (200, {"record"})
        assert ask("/v1/leases", "post", vsid=WEB, ca="10.0.1.99")[0] == 409
        status, page = ask("/v1/leases", "get")
        assert (status, page["leases"]) == (200, [leased["lease"]])
        assert ask("/v1/pools", "get")[0] == 200
        assert ask("/v1/leases/return", "post", pas=[leased["lease"]["pa"]])[0] == 204


def test_document_is_what_is_served(url: str) -> None:
    assert requests.get(f"{url}/openapi.json", timeout=10).json() == DOCUMENT


@pytest.mark.parametrize("principal", [OPERATOR, GATEWAY, READER, HV1], ids=lambda each: each.role)
def test_head_is_answered_as_get_without_a_body(url: str, principal: Principal) -> None:
    headers = {"Authorization": f"Bearer {TOKENS[principal.name]}"}
    for path, method in [*OPERATIONS, ("/v1/watch", "get")]:
        if method == "get" and "{" not in path:
            answer = requests.head(url + path, headers=headers, timeout=10)
            is_refused = (path == "/v1/nodes" and principal is READER) or (
                path == "/v1/pools" and principal is not OPERATOR
            )
            assert (answer.status_code, answer.content) == (403 if is_refused else 200, b"")
