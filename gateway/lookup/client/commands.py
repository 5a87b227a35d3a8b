"""What the command line asks the lookup service for, and how it says what came of it.

Each command returns the process's exit code: 0 done, 1 failed or refused.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from gateway.lookup import forms
from gateway.lookup.alerts import Alert
from gateway.lookup.claims import Mode, Refused
from gateway.lookup.client.client import LookupClient
from gateway.lookup.outcomes import ClaimAnswer, Forbidden, Unacceptable
from gateway.lookup.store import Conflict, Expected, StoreUnavailable, Taken
from gateway.progress import progress
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import Unanswered
from policies.model import Lease, LookupRecord, Network, ProviderHost, Translation
from policies.services import LookupAccess

T = TypeVar("T")

Command = Callable[[LookupClient], Awaitable[int]]


class NotPossible(Exception):
    """What is asked for cannot be found out, or done, and why."""


def run(access: LookupAccess, command: Command) -> int:
    """Carry out a command with a client of its own, and return the exit code.

    Raises Unanswered where no node answers, ConfigurationError for a credential that cannot be read.
    """

    async def main() -> int:
        async with LookupClient(access) as client:
            return await command(client)

    try:
        return asyncio.run(main())
    except StoreUnavailable as error:
        raise Unanswered(str(error)) from None
    except Refused as refused:
        record = refused.current.record if refused.current is not None else None
        return _refuse(f"refused: {refused.reason}", record)
    except Conflict as conflict:
        record = conflict.current.record if conflict.current is not None else None
        return _refuse(str(conflict), record)
    except Taken as taken:
        record = taken.holder.record if taken.holder is not None else None
        why = "" if record is not None else ": a gateway has leased it, or it is in quarantine"
        return _refuse(f"{taken}{why}", record)
    except (Forbidden, Unacceptable, NotPossible) as error:
        return _refuse(str(error))


async def contents(
    client: LookupClient, tenant: str | None
) -> tuple[Network, list[LookupRecord], list[Lease]]:
    """Return the network, and the records and leases of a tenant, or all that there are."""
    network = await client.network()
    async with aclosing(client.records(tenant=tenant)) as listed:
        records = [record async for record in listed]
    if not any(gateway.pools for gateway in network.gateways):
        return network, records, []
    async with aclosing(client.leases(tenant=tenant)) as held:
        return network, records, [lease async for lease in held]


async def apply(client: LookupClient, network: Network, *, dry_run: bool, json: bool) -> int:
    """Have the network be as in a file, and show what that changes."""
    with progress("applying the network"):
        changes = await client.apply(network, dry_run=dry_run)
    if json:
        _say(msgspec.json.encode(changes).decode())
        return 0
    for change in changes:
        _say(f"{change.get('action', '?'):<6}  {change.get('kind')} {_named(change)}")
    noun = "change" if len(changes) == 1 else "changes"
    _say(f"{len(changes)} {noun}{' would be made' if dry_run else ''}")
    return 0


async def list_records(client: LookupClient, *, tenant: str | None, vsid: Vsid | None, json: bool) -> int:
    """Show the records of a tenant or a virtual subnet, or all."""
    found = await read_records(client, tenant=tenant, vsid=vsid)
    if not found:
        await check_there(client, tenant, vsid)
    _show(found, json=json, alone=False)
    return 0


async def read_records(client: LookupClient, *, tenant: str | None, vsid: Vsid | None) -> list[LookupRecord]:
    """Return the records of a tenant or a virtual subnet, or all."""
    return await collected("reading records", client.records(tenant=tenant, vsid=vsid))


async def collected(what: str, listed: AsyncGenerator[T, None]) -> list[T]:
    """Return all that is listed, and show how far it is while that takes long."""
    found: list[T] = []
    with progress(what) as meter:
        async with aclosing(listed):
            async for each in listed:
                found.append(each)
                meter.advance()
    return found


async def get_record(
    client: LookupClient, tenant: str | None, vsid: Vsid | None, ca: CustomerAddress, *, json: bool
) -> int:
    """Show one record."""
    vsid = await _vsid_of(client, tenant, vsid, ca)
    return _show_one(await client.resolve(vsid, ca), vsid, ca, json=json)


async def put_record(
    client: LookupClient,
    tenant: str | None,
    vsid: Vsid | None,
    ca: CustomerAddress,
    *,
    mac: MacAddress,
    host: str,
    pa: ProviderAddress | None,
    translation: Translation | None,
    expected: Expected,
    json: bool,
) -> int:
    """Write one record."""
    vsid = await _vsid_of(client, tenant, vsid, ca)
    if pa is None:
        await _host(client, host)
    record = await client.put(vsid, ca, mac=mac, pa=pa, host=host, translation=translation, expected=expected)
    _show([record], json=json, alone=True)
    return 0


async def delete_record(
    client: LookupClient,
    tenant: str | None,
    vsid: Vsid | None,
    ca: CustomerAddress,
    epoch: int | None,
    *,
    json: bool,
) -> int:
    """Delete one record."""
    vsid = await _vsid_of(client, tenant, vsid, ca)
    if not await client.delete(vsid, ca, epoch):
        return _refuse(f"there is no record of {vsid}/{ca}")
    deleted = {"vsid": vsid, "ca": str(ca), "deleted": True}
    _say(msgspec.json.encode(deleted).decode() if json else f"{vsid}/{ca} is deleted")
    return 0


async def unfreeze(
    client: LookupClient, tenant: str | None, vsid: Vsid | None, ca: CustomerAddress, *, json: bool
) -> int:
    """Let a record move again."""
    vsid = await _vsid_of(client, tenant, vsid, ca)
    return _show_one(await client.unfreeze(vsid, ca), vsid, ca, json=json)


async def migrate(
    client: LookupClient,
    tenant: str | None,
    vsid: Vsid | None,
    vm: CustomerAddress | MacAddress,
    *,
    to: str,
    pa: ProviderAddress | None,
    wait: float,
    json: bool,
) -> int:
    """Say that a VM is at another host from now on, and wait until its old and its new host know.

    1 also where it is so, but one of them has not said in time that it knows: the VM must not
    resume before (RFC 8394 section 2.2).
    """
    before = await _records_of(client, tenant, vsid, vm)
    first = before[0]
    pa = pa or _address_of(await _host(client, to), first.pa.version)
    began = time.monotonic()
    answer = await client.claim(
        first.vsid, first.mac, pa, Mode.ORCHESTRATE, host=to, wait=None, wait_seconds=wait
    )
    seconds = time.monotonic() - began
    if json:
        _say(msgspec.json.encode(_migration_form(before, answer, seconds)).decode())
    else:
        for line in _migration_lines(before, answer, seconds):
            _say(line)
    if late := sorted(name for name, has_learned in answer.learned.items() if not has_learned):
        return _refuse(f"not known yet at {', '.join(late)}: do not let the VM resume")
    return 0


async def nodes(client: LookupClient, *, json: bool) -> int:
    """Show the connected hosts and gateways, and what they have learned."""
    found = sorted(await client.nodes(), key=lambda node: (node.role, node.name))
    if json:
        _say(msgspec.json.encode(found).decode())
        return 0
    if not found:
        _say("no host and no gateway is connected to this lookup node")
    width = max((len(node.name) for node in found), default=0)
    for node in found:
        behind = f"{node.behind:.1f} s behind" if node.behind else "up to date"
        since = f"connected for {node.connected_seconds:.0f} s"
        _say(f"{node.role:<8} {node.name:<{width}}  revision {node.revision}  {behind}, {since}")
    return 0


async def alerts(client: LookupClient, *, json: bool) -> int:
    """Show a node's last alerts: what it has refused, and the records that have moved too often."""
    found = (await client.status()).get("alerts")
    if found is None:
        raise NotPossible("only operators and gateways are told the alerts")
    last = msgspec.convert(found, list[Alert])
    if json:
        _say(msgspec.json.encode(last).decode())
        return 0
    for alert in last:
        at = datetime.fromtimestamp(alert.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        _say(f"{at}  {alert.kind:<7}  {alert.message}")
    if not last:
        _say("this lookup node has no alerts")
    return 0


async def check_there(
    client: LookupClient, tenant: str | None, vsid: Vsid | None, gateway: str | None = None
) -> None:
    """Raise NotPossible where something is none of those that whoever asks may see."""
    network = await client.network()
    tenants = network.tenants
    if tenant is not None and all(each.name != tenant for each in tenants):
        known = ", ".join(each.name for each in tenants) or "none"
        raise NotPossible(f"there is no tenant {tenant}; known: {known}")
    if vsid is not None and all(subnet.vsid != vsid for each in tenants for subnet in each.subnets):
        raise NotPossible(f"no virtual subnet has VSID {vsid}")
    # A reader is told of no gateway.
    if gateway is not None and network.gateways and all(each.name != gateway for each in network.gateways):
        known = ", ".join(each.name for each in network.gateways)
        raise NotPossible(f"there is no gateway {gateway}; known: {known}")


async def _vsid_of(client: LookupClient, tenant: str | None, vsid: Vsid | None, ca: CustomerAddress) -> Vsid:
    """Return the virtual subnet that a customer address of a tenant is in."""
    if vsid is not None:
        return vsid
    for each in (await client.network()).tenants:
        for subnet in each.subnets if each.name == tenant else ():
            if any(ca.ip in prefix for prefix in subnet.prefixes):
                return subnet.vsid
    raise NotPossible(f"{ca} is in no virtual subnet of a tenant {tenant}")


async def _records_of(
    client: LookupClient, tenant: str | None, vsid: Vsid | None, vm: CustomerAddress | MacAddress
) -> list[LookupRecord]:
    """Return the records of a VM's MAC in one virtual subnet: at least one."""
    if isinstance(vm, CustomerAddress):
        vsid = await _vsid_of(client, tenant, vsid, vm)
        record = await client.resolve(vsid, vm)
        if record is None:
            raise NotPossible(f"there is no record of {vsid}/{vm}")
        vm = record.mac
    async with aclosing(client.records(tenant=tenant, vsid=vsid)) as records:
        found = [record async for record in records if record.mac == vm]
    if not found:
        raise NotPossible(f"nothing is recorded of {vm}")
    if len({record.vsid for record in found}) > 1:
        vsids = ", ".join(str(each) for each in sorted({record.vsid for record in found}))
        raise NotPossible(f"{vm} is in several virtual subnets ({vsids}): say which, by --vsid")
    return found


async def _host(client: LookupClient, name: str) -> ProviderHost:
    network = await client.network()
    for host in network.hosts:
        if host.name == name:
            return host
    known = ", ".join(host.name for host in network.hosts) or "none"
    raise NotPossible(f"there is no host {name}; known: {known}")


def _address_of(host: ProviderHost, version: int) -> ProviderAddress:
    """Return a host's first provider address, of this IP version where it has one."""
    addresses = host.provider_addresses
    if not addresses:
        raise NotPossible(f"{host.name} has no provider address")
    return next((address for address in addresses if address.version == version), addresses[0])


def _show_one(record: LookupRecord | None, vsid: Vsid, ca: CustomerAddress, *, json: bool) -> int:
    if record is None:
        return _refuse(f"there is no record of {vsid}/{ca}")
    _show([record], json=json, alone=True)
    return 0


def _show(records: Iterable[LookupRecord], *, json: bool, alone: bool) -> None:
    if json:
        found = [_record_form(record) for record in records]
        _say(msgspec.json.encode(found[0] if alone else found).decode())
        return
    for record in records:
        _say(_record_line(record))


def _record_form(record: LookupRecord) -> dict[str, Any]:
    return {name: forms.form(getattr(record, name)) for name in LookupRecord.__struct_fields__}


def _record_line(record: LookupRecord) -> str:
    epoch = f"epoch {record.epoch}" if record.epoch else "static"
    return (
        f"{record.vsid:<8} {record.ca!s:<15}  {record.mac}  {record.host} at {record.pa}"
        f"  {record.translation}  {epoch}"
    )


def _migration_form(before: list[LookupRecord], answer: ClaimAnswer, seconds: float) -> dict[str, Any]:
    return {
        "before": [_record_form(record) for record in before],
        "records": [_record_form(record) for record in answer.records],
        "learned": answer.learned,
        "seconds": round(seconds, 4),
    }


def _migration_lines(before: list[LookupRecord], answer: ClaimAnswer, seconds: float) -> Iterable[str]:
    places = {record.ca: f"{record.host} at {record.pa}" for record in before}
    for record in answer.records:
        old, new = places.get(record.ca), f"{record.host} at {record.pa}"
        way = f"is at {new} already" if old == new else f"from {old or 'nowhere'} to {new}"
        yield f"{record.vsid}/{record.ca} {record.mac}: {way}, epoch {record.epoch}"
    for name, has_learned in sorted(answer.learned.items()):
        yield f"{name} {'knows' if has_learned else 'has not said that it knows'}"
    yield f"after {seconds * 1000:.1f} ms"


def _named(change: Mapping[str, Any]) -> str:
    name = change.get("name", change.get("pa"))
    return str(name) if name is not None else f"{change.get('vsid')}/{change.get('ca')}"


def _refuse(reason: str, current: LookupRecord | None = None) -> int:
    print(f"isthmus: {reason}", file=sys.stderr)
    if current is not None:
        print(f"isthmus: at present: {_record_line(current)}", file=sys.stderr)
    return 1


def _say(line: str) -> None:
    print(line)
