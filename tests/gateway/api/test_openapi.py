"""The operating interface does what its OpenAPI document says, whatever it is asked: by schemathesis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import trio
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from docs.generate import everything_by_http
from gateway.api.table import OPERATIONS, Form
from tests.gateway.api.appliance import OPERATOR, READER, TOKENS, served
from tests.gateway.api.everything import everything

EXAMPLES = 8
DOCUMENT: dict[str, Any] = msgspec.json.decode(everything_by_http())
# Beside the lookup service it says more; that is asked where the lookup service is.
DOCUMENT["paths"]["/v1/status"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] = {
    "$ref": "#/components/schemas/api.Status"
}
SCHEMA = openapi.from_dict(DOCUMENT)
# What never ends is more than this client can wait for: tests of its own read it.
CASES = [
    (each.path, each.method.lower(), mode)
    for each in OPERATIONS
    if each.form is not Form.CAPTURE
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE
    or DOCUMENT["paths"][each.path][each.method.lower()].keys() & {"parameters", "requestBody"}
]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An appliance on a thread of its own."""
    folder: Path = tmp_path_factory.mktemp("appliance")
    ready, stop = threading.Event(), trio.Event()
    found: list[str] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        async with (
            everything(folder) as (commands, network),
            served(folder, network=network, commands=commands) as node,
        ):
            tokens.append(trio.lowlevel.current_trio_token())
            found.append(f"http://127.0.0.1:{node.port}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    yield found[0]
    tokens[0].run_sync_soon(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("name", [OPERATOR, READER])
@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_answer_is_as_the_document_says(
    url: str, session: requests.Session, path: str, method: str, name: str, mode: GenerationMode
) -> None:
    operation = SCHEMA[path][method]
    headers = {"Authorization": f"Bearer {TOKENS[name]}"}

    @seed(7638)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        if str((case.query or {}).get("follow", "")).lower() in {"true", "1"}:
            return
        case.call_and_validate(base_url=url, session=session, headers=headers, checks=CHECKS)

    ask()
