"""The schemas of what the HTTP interface takes and says."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.http.openapi import TEXT, object_of, problem, ref
from gateway.http.openapi_forms import ADDRESS, MAC, VSID, Schema, form_schema
from gateway.lookup.alerts import Alert
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.answers import ADDRESS_TAKEN
from gateway.lookup.claims import Reason
from gateway.lookup.entries import Kind
from gateway.lookup.followers import Convergence, NodeStatus
from gateway.lookup.http.leases import LeaseBody, ReturnBody
from gateway.lookup.http.reads import Wanted
from gateway.lookup.http.writes import AcknowledgementBody, ClaimBody, HintBody, RecordBody
from gateway.lookup.limits import LARGEST_NUMBER, MOST_HINTS, MOST_RESOLVED
from gateway.lookup.outcomes import WhyNoLease
from policies.model import Network, Site, Translation

REVISION: Schema = {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER}

_BODIES = {
    "Wanted": Annotated[list[Wanted], msgspec.Meta(max_length=MOST_RESOLVED)],
    "Record": RecordBody,
    "Claim": ClaimBody,
    "Hints": Annotated[list[HintBody], msgspec.Meta(max_length=MOST_HINTS)] | HintBody,
    "Acknowledgement": AcknowledgementBody,
    "Lease": LeaseBody,
    "Return": ReturnBody,
}
_ANSWERS = (Alert, Convergence, NodeStatus)
# What of the bodies is an address, which msgspec knows as text only.
_ADDRESSES = {"Wanted": "ca", "HintBody": "ca", "ClaimBody": "pa", "LeaseBody": "ca"}


def components() -> dict[str, Schema]:
    """Return every schema, by its name."""
    bodies, found = msgspec.json.schema_components(
        [*_BODIES.values(), *_ANSWERS], ref_template="#/components/schemas/{name}"
    )
    for name, schema in zip(_BODIES, bodies, strict=False):
        found[f"{name}Request"] = schema
    for name, key in _ADDRESSES.items():
        found[name]["properties"][key] = ADDRESS
    for name in ("RecordBody", "ClaimBody"):
        found[name]["properties"]["mac"] = MAC
    found["ClaimBody"]["properties"]["addresses"]["items"] = ADDRESS
    found["ReturnBody"]["properties"]["pas"]["items"] = ADDRESS
    found["RecordBody"]["properties"]["pa"] = {"anyOf": [ADDRESS, {"type": "null"}], "default": None}
    form_schema(PoolUsage, found)
    form_schema(Network, found)
    form_schema(Site, found)
    site = found["Site"]
    found["SiteOfTenant"] = {
        **site,
        "properties": {"tenant": TEXT, **site["properties"]},
        "required": ["tenant", *site["required"]],
    }
    found["Record"] = object_of(
        vsid=VSID,
        ca=ADDRESS,
        mac=MAC,
        pa=ADDRESS,
        host=TEXT,
        translation={"type": "string", "enum": [each.value for each in Translation]},
        epoch=REVISION,
        revision=REVISION,
    )
    found["Lease"] = object_of(pa=ADDRESS, vsid=VSID, ca=ADDRESS, node=TEXT, revision=REVISION)
    reasons = (*(each.value for each in (*Reason, *WhyNoLease)), ADDRESS_TAKEN)
    found["Problem"] = problem(
        reason={"type": "string", "enum": list(dict.fromkeys(reasons))},
        current={"anyOf": [ref("Record"), {"type": "null"}]},
        pa=ADDRESS,
    )
    found["Status"] = {
        "type": "object",
        "properties": {
            "revision": REVISION,
            "records": REVISION,
            "synced": {"type": "boolean"},
            "stale_seconds": {"type": "number"},
            "nodes": REVISION,
            "watches": REVISION,
            "convergence": ref("Convergence"),
            "alerts": {"type": "array", "items": ref("Alert")},
            "alert_counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["revision", "records", "synced", "stale_seconds", "nodes", "watches", "convergence"],
    }
    found["Change"] = {
        "type": "object",
        "properties": {
            "action": {"enum": ["put", "delete"]},
            "kind": {"enum": [each.value for each in Kind]},
            "name": TEXT,
            "vsid": VSID,
            "ca": ADDRESS,
            "pa": ADDRESS,
        },
        "required": ["action", "kind"],
    }
    return found
