"""What asking the lookup service comes to, whether it is in the same process or behind HTTP.

Besides these: `claims.Refused`, `store.Conflict` and `store.StoreUnavailable`.
"""

from __future__ import annotations

import msgspec

from policies.model import LookupRecord


class Forbidden(Exception):
    """Whoever asks may not, or is nobody that the service knows. The message says why, and may be told."""


class Unacceptable(Exception):
    """It cannot be so in this network, whoever asks for it."""


class ClaimAnswer(msgspec.Struct, frozen=True):
    """The records of a MAC after a claim, and who of those that were waited for has learned of them."""

    records: tuple[LookupRecord, ...]
    learned: dict[str, bool]
