"""What `isthmus leases` and `isthmus pools` show: whose provider addresses are, and what is left."""

from __future__ import annotations

import msgspec

from gateway.lookup import forms
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.client.client import LookupClient
from gateway.lookup.client.commands import check_there, collected
from policies.model import Lease


async def leases(client: LookupClient, *, tenant: str | None, node: str | None, json: bool) -> int:
    """Show the leases of a tenant, of a gateway, or all."""
    found = await collected("reading leases", client.leases(tenant=tenant, node=node))
    if not found:
        await check_there(client, tenant, None, gateway=node)
    if json:
        print(msgspec.json.encode([_form(lease) for lease in found]).decode())
        return 0
    width = max((len(str(lease.pa)) for lease in found), default=0)
    nodes = max((len(lease.node) for lease in found), default=0)
    for lease in found:
        print(f"{lease.pa!s:<{width}}  {lease.node:<{nodes}}  for {lease.vsid}/{lease.ca}")
    if not found:
        whom = f" for {tenant}" if tenant is not None else ""
        print(f"{node or 'no gateway'} has leased {'no' if node else 'an'} address{whom}")
    return 0


async def pools(client: LookupClient, *, json: bool) -> int:
    """Show each pool, and how it is used."""
    found = await client.pools()
    if json:
        print(msgspec.json.encode([forms.form(pool) for pool in found]).decode())
        return 0
    width = max((len(str(pool.prefix)) for pool in found), default=0)
    for pool in found:
        print(f"{pool.prefix!s:<{width}}  {_counts(pool)}  {', '.join(pool.nodes)}")
    if not found:
        print("no host and no gateway has a pool")
    return 0


def _form(lease: Lease) -> dict[str, object]:
    return {name: forms.form(getattr(lease, name)) for name in Lease.__struct_fields__}


def _counts(pool: PoolUsage) -> str:
    left = str(pool.free) if pool.free < 1 << 32 else "more than 4 billion"
    return f"{pool.held} held, {pool.quarantined} in quarantine, {left} free"
