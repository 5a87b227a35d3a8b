"""The OpenAPI document of the HTTP interface, from the definitions that the handlers read by."""

from __future__ import annotations

from typing import Any

from gateway.http.openapi import (
    TEXT,
    list_of,
    object_of,
    open_operation,
    operation,
    query_parameter,
    ref,
    says,
    says_nothing,
)
from gateway.http.openapi_forms import ADDRESS, VSID, Schema
from gateway.lookup.entries import Kind
from gateway.lookup.http.openapi_schemas import REVISION
from gateway.lookup.limits import MOST_LISTED, MOST_RESOLVED, MOST_RETURNED

_OPERATORS = "operators"

_CHOOSING = [
    query_parameter("tenant", TEXT, description="Only of this tenant."),
    query_parameter("vsid", VSID, description="Only of this virtual subnet."),
]
_KEY = [
    {"name": "vsid", "in": "path", "required": True, "schema": VSID, "example": 5001},
    {"name": "ca", "in": "path", "required": True, "schema": ADDRESS, "example": "10.0.1.7"},
]
_PAGING = [
    query_parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MOST_LISTED},
        description="Of a page, at most.",
    ),
    query_parameter("continue", TEXT, description="As the page before this said."),
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
    return {**_record_paths(), **_claim_paths(), **_lease_paths(), **_network_paths(), **_node_paths()}


def _record_paths() -> dict[str, Any]:
    etag = {"ETag": {"schema": TEXT, "description": "The record's epoch, in quotes."}}
    record = says("The record.", ref("Record"), headers=etag)
    page = object_of(
        records=list_of("Record"), revision=REVISION, **{"continue": {"type": ["string", "null"]}}
    )
    found = object_of(
        records={"type": "array", "items": {"anyOf": [ref("Record"), {"type": "null"}]}},
        revision=REVISION,
        stale_seconds={"type": "number"},
    )
    return {
        "/v1/records/{vsid}/{ca}": {
            "parameters": _KEY,
            "get": operation(
                "Read a record.", {200: record, 304: says_nothing("It is as you have it.")}, 404
            ),
            "put": operation(
                "Write a record, if it is as expected.",
                {200: record, 201: record},
                *(409, 412, 422, 428),
                body=ref("RecordRequest"),
                parameters=[_MATCH, _NONE_MATCH],
                who=_OPERATORS,
                example={"mac": "02:00:00:00:01:07", "pa": "198.51.100.12", "host": "hv2"},
            ),
            "delete": operation(
                "Delete a record, if it is as expected.",
                {204: says_nothing("It is gone.")},
                *(404, 409, 412, 428),
                parameters=[_MATCH],
                who=_OPERATORS,
            ),
        },
        "/v1/records/{vsid}/{ca}/unfreeze": {
            "parameters": _KEY,
            "post": operation("Let a record move again.", {200: record}, 404, 412, who=_OPERATORS),
        },
        "/v1/resolve": {
            "post": operation(
                f"Read up to {MOST_RESOLVED} records.",
                {200: says("Records, or null.", found)},
                body=ref("WantedRequest"),
                example=[{"vsid": 5001, "ca": "10.0.1.5"}],
            ),
        },
        "/v1/records": {
            "get": operation(
                "List records, page by page.",
                {200: says("A page; `continue` asks for the next.", page)},
                parameters=[
                    *_CHOOSING,
                    *_PAGING,
                ],
            ),
        },
    }


def _claim_paths() -> dict[str, Any]:
    learned: Schema = {"type": "object", "additionalProperties": {"type": "boolean"}}
    claimed = object_of(records=list_of("Record"), learned=learned)
    return {
        "/v1/claims": {
            "post": operation(
                "Say that a MAC is at a host: all of its addresses at once.",
                {200: says("Its records, and who has learned of them.", claimed)},
                *(409, 422),
                body=ref("ClaimRequest"),
                who="hosts, at their own addresses, and operators",
                example={"vsid": 5001, "mac": "02:00:00:00:01:05", "pa": "198.51.100.11", "host": "hv1"},
            ),
        },
        "/v1/hints": {
            "post": operation(
                "Have hosts taught that watch here, or not any more: tell every node.",
                {202: says("They will be.", object_of(status=TEXT))},
                body=ref("HintsRequest"),
                who="gateways and operators, and hosts about their neighbours and what they use",
                example={"host": "hv1", "vsid": 5001, "ca": "10.0.1.5"},
            ),
        },
        "/v1/acknowledgements": {
            "post": operation(
                "Say what has been applied, to every node: one without your watch forgets it after 60 s.",
                {204: says_nothing("It is noted.")},
                body=ref("AcknowledgementRequest"),
                who="hosts and gateways",
                example={"revision": 17},
            ),
        },
        "/v1/watch": {
            "get": operation(
                "Follow what changes, a line of JSON for each event.",
                {
                    200: {
                        "description": "Changes, and a progress line behind each group of them; never ends.",
                        "content": {"application/jsonl": {"schema": {"type": "string"}}},
                    }
                },
                429,
                parameters=[
                    *_CHOOSING,
                    query_parameter(
                        "kind",
                        {"type": "string", "enum": [each.value for each in Kind]},
                        description="Only entries of this kind.",
                    ),
                    query_parameter(
                        "only",
                        {"type": "string", "enum": ["used"]},
                        description="Of a host: the records that it uses, rewritten ones, and leases.",
                    ),
                    query_parameter(
                        "from", REVISION, description="The revision of the last progress line, to go on from."
                    ),
                ],
            ),
        },
    }


def _lease_paths() -> dict[str, Any]:
    page = object_of(leases=list_of("Lease"), revision=REVISION, **{"continue": {"type": ["string", "null"]}})
    either = {"oneOf": [object_of(lease=ref("Lease")), object_of(record=ref("Record"))]}
    return {
        "/v1/leases": {
            "get": operation(
                "List the leases of gateways' pools, page by page.",
                {200: says("A page; `continue` asks for the next.", page)},
                parameters=[
                    query_parameter("tenant", TEXT, description="Only for this tenant."),
                    query_parameter("node", TEXT, description="Only of this gateway."),
                    *_PAGING,
                ],
            ),
            "post": operation(
                "Have a provider address stand for a customer address that has none of its own.",
                {200: says("The lease, new or standing; or the record of a rewritten VM.", either)},
                *(409, 422),
                body=ref("LeaseRequest"),
                who="hosts, for their tenants, gateways, of their own pools, and operators",
                example={"vsid": 5001, "ca": "172.16.0.9"},
            ),
        },
        "/v1/leases/return": {
            "post": operation(
                f"Return up to {MOST_RETURNED} leases; what nobody holds is passed over.",
                {204: says_nothing("They are returned.")},
                422,
                body=ref("ReturnRequest"),
                who="gateways, of their own pools, and operators",
                example={"pas": ["192.0.2.130"]},
            )
        },
        "/v1/pools": {
            "get": operation(
                "Read how the pools of provider addresses are used.",
                {200: says("Pools.", list_of("PoolUsage"))},
                who=_OPERATORS,
            )
        },
    }


def _network_paths() -> dict[str, Any]:
    return {
        "/v1/network": {
            "get": operation(
                "Read the network's configuration.",
                {200: says("What whoever asks may see.", ref("Network"))},
            ),
            "put": operation(
                "Write the network's configuration as a difference.",
                {200: says("What that changes.", object_of(changes=list_of("Change")))},
                *(409, 412, 422),
                body=ref("Network"),
                parameters=[
                    query_parameter(
                        "dry_run",
                        {"type": "boolean"},
                        description="Only tell what it would change.",
                    )
                ],
                who=_OPERATORS,
                example={"hosts": [], "gateways": [], "tenants": []},
            ),
        },
        "/v1/tenants": {"get": operation("Read the tenants.", {200: says("Tenants.", list_of("Tenant"))})},
        "/v1/sites": {"get": operation("Read the sites.", {200: says("Sites.", list_of("SiteOfTenant"))})},
    }


def _node_paths() -> dict[str, Any]:
    state = object_of(status=TEXT)
    return {
        "/v1/nodes": {
            "get": operation(
                "Read who follows this node.",
                {200: says("Hosts, gateways.", list_of("NodeStatus"))},
                who="operators and gateways; a host sees itself",
            )
        },
        "/v1/status": {"get": operation("Read how this node is.", {200: says("Figures.", ref("Status"))})},
        "/healthz": {"get": open_operation("Ask whether this node is alive.", says("It is.", state))},
        "/readyz": {
            "get": open_operation("Ask whether this node knows everything.", says("It does.", state))
        },
        "/openapi.json": {
            "get": open_operation("Read this document.", says("OpenAPI 3.1.", {"type": "object"}))
        },
    }
