"""The OpenAPI document of the HTTP interface, from the definitions that the handlers read by."""

from __future__ import annotations

from typing import Any

from gateway.http.openapi_forms import ADDRESS, VSID, Schema
from gateway.http.problems import CONTENT_TYPE
from gateway.lookup.entries import Kind
from gateway.lookup.http.openapi_schemas import REVISION, TEXT, object_of, ref
from gateway.lookup.limits import MOST_LISTED, MOST_RESOLVED

_REASONS = {
    400: "The request is malformed; the detail names the key.",
    401: "A credential is wanted.",
    403: "Whoever asks may not.",
    404: "There is none.",
    408: "The body took too long.",
    409: "Something is in the way: `reason` says why, and `current` what.",
    412: "It is not as expected, but `current`.",
    413: "The body is too large.",
    415: "The body is of another content type.",
    421: "On loopback, the service is asked by a name of loopback.",
    422: "It cannot be so in this network.",
    428: "A precondition is wanted.",
    429: "There are too many.",
    503: "This node or its store is not there now; try again.",
}
# What any request may be answered, what one behind credentials, and what one with a body.
_ALWAYS = (400, 421, 503)
_BEHIND_CREDENTIALS = (401, 403)
_WITH_BODY = (408, 413, 415)

_KEY = [
    {"name": "vsid", "in": "path", "required": True, "schema": VSID},
    {"name": "ca", "in": "path", "required": True, "schema": ADDRESS},
]
_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": 'The epoch in quotes, such as "7", or * for any.',
    "schema": {"type": "string", "pattern": r'^("(0|[1-9][0-9]{0,17})"|\*)$'},
}
_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "* where there is none yet.",
    "schema": {"type": "string", "enum": ["*"]},
}


TITLE = "Isthmus lookup service"


def paths() -> Schema:
    """Return what the document says of each path."""
    return {**_record_paths(), **_claim_paths(), **_network_paths(), **_node_paths()}


def _record_paths() -> dict[str, Any]:
    etag = {"ETag": {"schema": TEXT, "description": "The record's epoch, in quotes."}}
    record = _says("The record.", ref("Record"), headers=etag)
    page = object_of(
        records=_list_of("Record"), revision=REVISION, **{"continue": {"type": ["string", "null"]}}
    )
    found = object_of(
        records={"type": "array", "items": {"anyOf": [ref("Record"), {"type": "null"}]}},
        revision=REVISION,
        stale_seconds={"type": "number"},
    )
    return {
        "/v1/records/{vsid}/{ca}": {
            "parameters": _KEY,
            "get": _operation("Read a record.", {200: record, 304: _empty("It is as you have it.")}, 404),
            "put": _operation(
                "Write a record, if it is as expected.",
                {200: record, 201: record},
                *(409, 412, 422, 428),
                body="RecordRequest",
                parameters=[_MATCH, _NONE_MATCH],
            ),
            "delete": _operation(
                "Delete a record, if it is as expected.",
                {204: _empty("It is gone.")},
                *(404, 409, 412, 428),
                parameters=[_MATCH],
            ),
        },
        "/v1/records/{vsid}/{ca}/unfreeze": {
            "parameters": _KEY,
            "post": _operation("Let a record move again.", {200: record}, 404, 412),
        },
        "/v1/resolve": {
            "post": _operation(
                f"Read up to {MOST_RESOLVED} records.",
                {200: _says("Records, or null.", found)},
                body="WantedRequest",
            ),
        },
        "/v1/records": {
            "get": _operation(
                "List records, page by page.",
                {200: _says("A page; `continue` asks for the next.", page)},
                parameters=[
                    _query("tenant", TEXT),
                    _query("vsid", VSID),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}),
                    _query("continue", {"type": "string", "description": "As the page before this said."}),
                ],
            ),
        },
    }


def _claim_paths() -> dict[str, Any]:
    learned: Schema = {"type": "object", "additionalProperties": {"type": "boolean"}}
    claimed = object_of(records=_list_of("Record"), learned=learned)
    return {
        "/v1/claims": {
            "post": _operation(
                "Say that a MAC is at a host: all of its addresses at once.",
                {200: _says("Its records, and who has learned of them.", claimed)},
                *(409, 422),
                body="ClaimRequest",
            ),
        },
        "/v1/hints": {
            "post": _operation(
                "Have hosts taught that watch here, or not any more: tell every node.",
                {202: _says("They will be.", object_of(status=TEXT))},
                body="HintsRequest",
            ),
        },
        "/v1/acknowledgements": {
            "post": _operation(
                "Say what has been applied, to every node: one without your watch forgets it after 60 s.",
                {204: _empty("It is noted.")},
                body="AcknowledgementRequest",
            ),
        },
        "/v1/watch": {
            "get": _operation(
                "Follow what changes, a line of JSON for each event.",
                {
                    200: {
                        "description": "Changes, and a progress line behind each group of them; never ends.",
                        "content": {"application/jsonl": {"schema": {"type": "string"}}},
                    }
                },
                429,
                parameters=[
                    _query("tenant", TEXT),
                    _query("vsid", VSID),
                    _query("kind", {"type": "string", "enum": [each.value for each in Kind]}),
                    _query("only", {"type": "string", "enum": ["used"]}),
                    _query("from", REVISION),
                ],
            ),
        },
    }


def _network_paths() -> dict[str, Any]:
    return {
        "/v1/network": {
            "get": _operation(
                "Read the network's configuration.",
                {200: _says("What whoever asks may see.", ref("Network"))},
            ),
            "put": _operation(
                "Write the network's configuration as a difference.",
                {200: _says("What that changes.", object_of(changes=_list_of("Change")))},
                *(412, 422),
                body="Network",
                parameters=[_query("dry_run", {"type": "boolean"})],
            ),
        },
        "/v1/tenants": {"get": _operation("Read the tenants.", {200: _says("Tenants.", _list_of("Tenant"))})},
        "/v1/sites": {"get": _operation("Read the sites.", {200: _says("Sites.", _list_of("SiteOfTenant"))})},
    }


def _node_paths() -> dict[str, Any]:
    state = object_of(status=TEXT)
    return {
        "/v1/nodes": {
            "get": _operation(
                "Read who follows this node.", {200: _says("Hosts, gateways.", _list_of("NodeStatus"))}
            )
        },
        "/v1/status": {"get": _operation("Read how this node is.", {200: _says("Figures.", ref("Status"))})},
        "/healthz": {"get": _open("Ask whether this node is alive.", _says("It is.", state))},
        "/readyz": {"get": _open("Ask whether this node knows everything.", _says("It does.", state))},
        "/openapi.json": {"get": _open("Read this document.", _says("OpenAPI 3.1.", {"type": "object"}))},
    }


def _operation(
    summary: str,
    answers: dict[int, Schema],
    *problems: int,
    body: str | None = None,
    parameters: list[Schema] | None = None,
) -> Schema:
    statuses = {*_ALWAYS, *_BEHIND_CREDENTIALS, *problems, *(_WITH_BODY if body is not None else ())}
    found: Schema = {"summary": summary, "responses": _responses(answers, statuses)}
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref(body)}}}
    return found


def _open(summary: str, says: Schema) -> Schema:
    """What is answered without a credential."""
    return {"summary": summary, "security": [], "responses": _responses({200: says}, set(_ALWAYS))}


def _responses(answers: dict[int, Schema], problems: set[int]) -> Schema:
    said = {str(status): says for status, says in answers.items()}
    problem = {CONTENT_TYPE: {"schema": ref("Problem")}}
    wrong = {str(each): {"description": _REASONS[each], "content": problem} for each in sorted(problems)}
    return said | wrong


def _says(description: str, schema: Schema, *, headers: Schema | None = None) -> Schema:
    found: Schema = {"description": description, "content": {"application/json": {"schema": schema}}}
    return found if headers is None else {**found, "headers": headers}


def _empty(description: str) -> Schema:
    return {"description": description}


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": ref(name)}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}
