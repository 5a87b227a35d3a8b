"""What the lookup service's store holds: keys, values, and the changes of them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, ProviderGateway, ProviderHost, Tenant, Translation


class Kind(StrEnum):
    """The kinds of entries, as keys and watches name them."""

    RECORD = "record"
    TENANT = "tenant"
    HOST = "host"
    GATEWAY = "gateway"
    LEASE = "lease"


NAMED_KINDS = (Kind.HOST, Kind.GATEWAY, Kind.TENANT)
"""The network's. They are told in this order and before the records, which mean little without them."""
ADDRESS_KINDS = (Kind.RECORD, Kind.LEASE)
"""Where addresses are, told in this order."""


class RecordKey(msgspec.Struct, frozen=True, gc=False, order=True):
    """Names a lookup record."""

    vsid: Vsid
    ca: CustomerAddress

    @property
    def kind(self) -> Kind:
        return Kind.RECORD

    def __str__(self) -> str:
        return f"record {self.vsid}/{self.ca}"


class NamedKey(msgspec.Struct, frozen=True, gc=False, order=True):
    """Names a tenant, a host or a gateway."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class LeaseKey(msgspec.Struct, frozen=True, gc=False, order=True):
    """Names a provider address of a pool."""

    pa: ProviderAddress

    @property
    def kind(self) -> Kind:
        return Kind.LEASE

    def __str__(self) -> str:
        return f"lease {self.pa}"


Key = RecordKey | NamedKey | LeaseKey


class Placement(msgspec.Struct, frozen=True, gc=False):
    """A record's value: where a VM is, and what its moves have come to."""

    mac: MacAddress
    pa: ProviderAddress
    host: str
    translation: Translation = Translation.ENCAP
    pinned: bool = False
    """A static record, from the configuration: never claimed, and epoch 0 to readers."""
    frozen: bool = False
    """It has moved too often by announcements: claims are refused until an operator says otherwise."""
    moves: tuple[float, ...] = ()
    """When it was last moved by announcements, in seconds of the lookup node's clock (Unix time)."""


class Grant(msgspec.Struct, frozen=True, gc=False):
    """Whose a provider address of a pool is: a rewritten record's at a host, or a distant CA's at a gateway.

    It stays in the store when it is returned, so that nobody else gets the address before its quarantine
    is over. What is stored is therefore no more than the pools hold.
    """

    vsid: Vsid
    ca: CustomerAddress
    node: str
    """The host or the gateway whose pool it is of."""
    returned_at: float | None = None
    """Unix time, of the lookup node that took it back; None while it is held."""
    leased: bool = False
    """Whether it is leased from a gateway's pool for a distant CA, which hosts and gateways are told; what a
    rewritten record has at its host they see by the record. Whoever grants it says so, since names and pools
    of nodes change."""

    @property
    def is_lease(self) -> bool:
        """Whether it is a gateway's, and held."""
        return self.leased and self.returned_at is None


Value = Placement | Tenant | ProviderHost | ProviderGateway | Grant
"""A tenant is stored without its static records, which are entries of their own."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """One key as the store has it, and one change of it.

    `value` is None for a tombstone: the key is gone, and its epoch is remembered. `epoch` counts
    the key's changes that readers can see; `revision` is the store's total order of all changes.
    """

    key: Key
    value: Value | None
    epoch: int
    revision: int

    @classmethod
    def of(cls, record: LookupRecord) -> Stored:
        """Return the entry behind a record, as far as readers see it: those of epoch 0 are pinned."""
        value = Placement(record.mac, record.pa, record.host, record.translation, pinned=record.epoch == 0)
        return cls(RecordKey(record.vsid, record.ca), value, record.epoch, record.revision)

    @property
    def lease(self) -> Lease | None:
        """The gateway's lease as readers see it, or None where that is not held, or it is another kind."""
        key, value = self.key, self.value
        if not isinstance(key, LeaseKey) or not isinstance(value, Grant) or not value.is_lease:
            return None
        return Lease(key.pa, value.vsid, value.ca, value.node, self.revision)

    @property
    def record(self) -> LookupRecord | None:
        """The lookup record as readers see it, or None for a tombstone or another kind."""
        key, value = self.key, self.value
        if not isinstance(key, RecordKey) or not isinstance(value, Placement):
            return None
        return LookupRecord(
            vsid=key.vsid,
            ca=key.ca,
            mac=value.mac,
            pa=value.pa,
            host=value.host,
            translation=value.translation,
            epoch=0 if value.pinned else self.epoch,
            revision=self.revision,
        )


class Progress(msgspec.Struct, frozen=True, gc=False):
    """Every change up to this revision has been told; after a Reset, everything there is."""

    revision: int


class Reset(msgspec.Struct, frozen=True, gc=False):
    """Everything is told anew until the next Progress. What is not told then is gone."""

    revision: int


Event = Stored | Progress | Reset
"""What a replica is fed with: a Reset where it cannot go on from what it has, then changes and Progress."""
