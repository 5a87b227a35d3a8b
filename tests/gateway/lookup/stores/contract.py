"""What every lookup store has to do: one suite, which each store's tests run against it.

A store's test module subclasses `StoreContract` and has a fixture `open_store`, which makes a store without
entries each time that it is entered. Revisions need not begin at any particular number, nor be without gaps.
"""

from __future__ import annotations

from tests.gateway.lookup.stores.contract_claims import ClaimContract
from tests.gateway.lookup.stores.contract_grant_claims import GrantClaimContract
from tests.gateway.lookup.stores.contract_grants import GrantContract
from tests.gateway.lookup.stores.contract_reads import ReadContract
from tests.gateway.lookup.stores.contract_writes import WriteContract


class StoreContract(WriteContract, ClaimContract, GrantContract, GrantClaimContract, ReadContract):
    """Each test is one promise of `gateway.lookup.store.LookupStore`."""
