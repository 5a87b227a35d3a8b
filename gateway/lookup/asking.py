"""What a host or a gateway asks of the lookup service, here or elsewhere, from asyncio or from trio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.lookup.answers import Hint
from gateway.lookup.claims import Mode
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord


class Asking(Protocol):
    """Whatever is asked may be asked twice. All raise StoreUnavailable, Forbidden and Unacceptable."""

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode,
        addresses: tuple[CustomerAddress, ...],
    ) -> object:
        """Say that a MAC is at one of this host's provider addresses. Raises Refused, too."""
        ...

    async def hints(self, hints: Sequence[Hint]) -> None:
        """Have hosts taught, or no longer told."""
        ...

    async def lease(self, vsid: Vsid, ca: CustomerAddress) -> Lease | LookupRecord:
        """Have a provider address leased for a CA that has none, from a gateway's pool.

        A gateway gets one of its own. A CA that has its own, being rewritten, has its record returned:
        so has a host that keeps few records, which is taught it. Raises NoLease, too.
        """
        ...

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        """Say that addresses of this gateway's pools are not in use any more."""
        ...

    async def acknowledge(self, revision: int) -> None:
        """Say that everything up to a revision is applied here."""
        ...
