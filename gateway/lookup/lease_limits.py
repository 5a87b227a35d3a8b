"""How many addresses of a gateway's pools a tenant may hold at once, where its configuration does not say.

A VM that goes through a site's prefix has an address leased for each one that it tries, and those which
it has given back are nobody's for a while: so a tenant can keep twice its limit from the others.
"""

from __future__ import annotations

from collections import Counter

from policies.model import MOST_LEASES, Network, ProviderGateway

SHARE = 4
"""A tenant has at most this part of a pool that it shares with others: half of it is theirs in any case."""


def lease_limits(network: Network) -> dict[str, int]:
    """Return the limit of each tenant, at each of its gateways."""
    gateways = {gateway.name: gateway for gateway in network.gateways}
    tenants = Counter(name for tenant in network.tenants for name in tenant.gateways)
    shares = {
        name: min(_room(gateway) // (SHARE if tenants[name] > 1 else 1), MOST_LEASES)
        for name, gateway in gateways.items()
    }
    return {
        tenant.name: tenant.leases
        or max(1, min((shares[name] for name in tenant.gateways if shares.get(name)), default=MOST_LEASES))
        for tenant in network.tenants
    }


def _room(gateway: ProviderGateway) -> int:
    """The addresses of the family that a gateway has fewest of; 0 where it has no pools."""
    sizes: Counter[int] = Counter()
    for pool in gateway.pools:
        sizes[pool.version] += pool.num_addresses - 2  # see `addresses.is_leased`
    return min(sizes.values(), default=0)
