"""What is written: records, claims, hints, acknowledgements and the network."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.http.calls import answer, read_text
from gateway.http.problems import HttpProblem
from gateway.lookup import forms
from gateway.lookup.authority import LONGEST_WAIT_SECONDS, WAIT_SECONDS
from gateway.lookup.claims import MOST_OF_A_HOST, MOST_OF_A_MAC, Mode, Reason, Refused
from gateway.lookup.entries import LeaseKey, NamedKey, RecordKey, Stored
from gateway.lookup.http.calls import LARGE, LookupCall, RevisionNumber, VsidNumber, read_address
from gateway.lookup.limits import LARGEST_NUMBER, MOST_HINTS
from gateway.lookup.network import Step
from gateway.lookup.records_wire import provider_address, record_text
from gateway.lookup.soundness import LONGEST_NAME
from gateway.lookup.store import Expect, Expected
from policies.addresses import MacAddress, Vsid
from policies.model import LookupRecord, Network, Translation
from policies.services import Role

MOST_WAITED_FOR = 64

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)]

_ETAG = re.compile(r'"(0|[1-9][0-9]{0,18})"')


class RecordBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an operator says that a customer address is."""

    mac: str
    host: Name
    pa: str | None = None
    translation: Translation | None = None


class ClaimBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host says that a MAC is at one of its provider addresses."""

    vsid: VsidNumber
    mac: str
    pa: str
    mode: Mode = Mode.ANNOUNCE
    addresses: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_OF_A_MAC)] = ()
    host: Name | None = None
    wait: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MOST_WAITED_FOR)] | None = None
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=int(LONGEST_WAIT_SECONDS * 1000))] = int(
        WAIT_SECONDS * 1000
    )


class HintBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A host lacks a record, or does not use it any more."""

    host: Name
    vsid: VsidNumber
    ca: str
    forget: bool = False


class AcknowledgementBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything up to a revision has been applied."""

    revision: RevisionNumber


_RECORD = msgspec.json.Decoder(RecordBody)
_CLAIM = msgspec.json.Decoder(ClaimBody)
_HINTS = msgspec.json.Decoder(Annotated[list[HintBody], msgspec.Meta(max_length=MOST_HINTS)] | HintBody)
_ACKNOWLEDGEMENT = msgspec.json.Decoder(AcknowledgementBody)
_ANYTHING = msgspec.json.Decoder()


async def put_record(call: LookupCall) -> web.StreamResponse:
    """Write one record, if it is as expected."""
    key = call.record_key()
    expected = _expected(call)
    body = await call.body(_RECORD)
    entry = await call.authority.put(
        call.principal,
        key,
        mac=read_text(MacAddress.parse, "mac", body.mac),
        pa=read_text(provider_address, "pa", body.pa) if body.pa is not None else None,
        host=body.host,
        translation=body.translation,
        expected=expected,
    )
    return _record_answer(entry, status=201 if expected is Expect.ABSENT else 200)


async def delete_record(call: LookupCall) -> web.StreamResponse:
    """Delete one record, if it is as expected."""
    key = call.record_key()
    expected = _expected(call)
    if expected is Expect.ABSENT:
        raise HttpProblem(400, "If-None-Match: a record that is not there is not deleted; use If-Match")
    await call.authority.delete(call.principal, key, expected)
    return web.Response(status=204)


async def unfreeze_record(call: LookupCall) -> web.StreamResponse:
    """Let a record move again."""
    return _record_answer(await call.authority.unfreeze(call.principal, call.record_key()))


async def claim(call: LookupCall) -> web.StreamResponse:
    """Claim a MAC for a host."""
    body = await call.body(_CLAIM)
    found = await call.authority.claim(
        call.principal,
        vsid=Vsid(body.vsid),
        mac=read_text(MacAddress.parse, "mac", body.mac),
        pa=read_text(provider_address, "pa", body.pa),
        mode=body.mode,
        addresses=tuple(read_address(f"addresses[{n}]", text) for n, text in enumerate(body.addresses)),
        host=body.host,
        wait=body.wait,
        wait_seconds=body.wait_ms / 1000,
    )
    records = ",".join(map(record_text, found.records))
    learned = msgspec.json.encode(found.learned).decode()
    return answer(f'{{"records":[{records}],"learned":{learned}}}'.encode())


async def hint(call: LookupCall) -> web.StreamResponse:
    """Have hosts taught."""
    body = await call.body(_HINTS)
    hints = [body] if isinstance(body, HintBody) else body
    addresses = [read_address(f"[{number}].ca", each.ca) for number, each in enumerate(hints)]
    for each, ca in zip(hints, addresses, strict=True):
        call.authority.hint(call.principal, each.host, Vsid(each.vsid), ca, forget=each.forget)
    return answer(b'{"status":"accepted"}', status=202)


async def acknowledge(call: LookupCall) -> web.StreamResponse:
    """Say what has been applied."""
    body = await call.body(_ACKNOWLEDGEMENT)
    await call.authority.acknowledge_remotely(call.principal, body.revision)
    return web.Response(status=204)


async def put_network(call: LookupCall) -> web.StreamResponse:
    """Write the whole network's configuration as a difference."""
    dry_run = call.query("dry_run").get("dry_run", "false")
    if dry_run not in {"true", "false"}:
        raise HttpProblem(400, "dry_run: true or false is wanted")
    body = await call.body(_ANYTHING, LARGE if call.principal.role is Role.OPERATOR else None)
    try:
        network = forms.read(Network, body, "body")
    except RecursionError:
        raise HttpProblem(400, "the body is nested too deeply") from None
    except forms.Malformed as error:
        raise HttpProblem(400, str(error)) from None
    steps = await call.authority.apply_network(call.principal, network, dry_run=dry_run == "true")
    return answer(msgspec.json.encode({"changes": [step_form(step) for step in steps]}))


def step_form(step: Step) -> dict[str, object]:
    """Return what one step of a change of the network is, without its value."""
    action = "delete" if step.value is None else "put"
    match step.key:
        case NamedKey(kind=kind, name=name):
            return {"action": action, "kind": kind.value, "name": name}
        case RecordKey(vsid=vsid, ca=ca):
            return {"action": action, "kind": "record", "vsid": vsid, "ca": str(ca)}
        case LeaseKey(pa=pa):
            # It is given back, which watches tell as a deletion, too.
            return {"action": "delete", "kind": "lease", "pa": str(pa)}


def current_form(entry: Stored | None) -> object:
    """Return the record that is in the way of a write, or None."""
    record: LookupRecord | None = entry.record if entry is not None else None
    return None if record is None else msgspec.Raw(record_text(record).encode())


def refused_problem(refused: Refused) -> HttpProblem:
    """Return how a refused claim is answered."""
    extra = {"reason": refused.reason.value, "current": current_form(refused.current)}
    return HttpProblem(409, _REFUSALS[refused.reason], extra=extra)


_REFUSALS = {
    Reason.PINNED: "a static record says where this is",
    Reason.OTHER_MAC: "another MAC has one of the addresses",
    Reason.ELSEWHERE: "it is registered at another host",
    Reason.FROZEN: "it has moved too often, and is frozen until an operator unfreezes it",
    Reason.TOO_MANY: f"claims give a MAC {MOST_OF_A_MAC} addresses, and a host {MOST_OF_A_HOST}, at most",
    Reason.UNKNOWN: "nothing is recorded of the MAC, and no address is named",
    Reason.NO_ADDRESS: "the host's pools have no address left of its family, or the host has no such pool",
}


def _record_answer(entry: Stored, status: int = 200) -> web.StreamResponse:
    record = entry.record
    if record is None:
        raise HttpProblem(404, f"there is no {entry.key}")
    return answer(record_text(record).encode(), status=status, headers={"ETag": f'"{record.epoch}"'})


def _expected(call: LookupCall) -> Expected:
    """Return what the preconditions ask for (RFC 9110 section 13.1). Raises HttpProblem."""
    match, none_match = (call.request.headers.getall(name, ()) for name in ("If-Match", "If-None-Match"))
    if len(match) + len(none_match) > 1:
        raise HttpProblem(400, "one of If-Match and If-None-Match is wanted, once")
    if none_match:
        if none_match[0].strip() != "*":
            raise HttpProblem(400, "If-None-Match: * is wanted")
        return Expect.ABSENT
    if not match:
        raise HttpProblem(428, 'say what is expected: If-Match: "<epoch>", or If-None-Match: *')
    text = match[0].strip()
    if text == "*":
        return Expect.ANY
    found = _ETAG.fullmatch(text)
    if found is None or int(found[1]) > LARGEST_NUMBER:
        raise HttpProblem(400, 'If-Match: "<epoch>" or * is wanted')
    return int(found[1])
