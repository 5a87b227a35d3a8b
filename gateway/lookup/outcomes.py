"""What asking the lookup service comes to, whether it is in the same process or behind HTTP.

Besides these: `claims.Refused`, `store.Conflict` and `store.StoreUnavailable`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from policies.model import LookupRecord


class Forbidden(Exception):
    """Whoever asks may not, or is nobody that the service knows. The message says why, and may be told."""


class Unacceptable(Exception):
    """It cannot be so in this network, whoever asks for it."""


class WhyNoLease(StrEnum):
    """Why nobody gets a provider address for a CA."""

    UNKNOWN = "unknown"
    """It is nobody's: no record, no route to a site, no gateway's own."""
    NO_POOL = "no-pool"
    """No gateway of the tenant has a pool of its family."""
    POOL_EMPTY = "pool-empty"
    """All addresses are held, or in quarantine."""
    TENANT_LIMIT = "tenant-limit"
    """The tenant holds as many as it may."""


WHY_NO_LEASE: dict[str, str] = {
    WhyNoLease.UNKNOWN: "nobody has it: no record, no route to a site or through a VM, no gateway",
    WhyNoLease.NO_POOL: "no gateway of the tenant has a pool of its family",
    WhyNoLease.POOL_EMPTY: "the gateway's pools have no address left",
    WhyNoLease.TENANT_LIMIT: "the tenant holds as many as its `leases` allow",
}
"""The same in words, for an operator."""


class NoLease(Exception):
    """There is no provider address for a CA now."""

    def __init__(self, reason: WhyNoLease) -> None:
        super().__init__(reason.value)
        self.reason = reason


class ClaimAnswer(msgspec.Struct, frozen=True):
    """The records of a MAC after a claim, and who of those that were waited for has learned of them."""

    records: tuple[LookupRecord, ...]
    learned: dict[str, bool]
