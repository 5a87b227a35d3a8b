"""The tables of appliance.toml that describe a tenant's site."""

from __future__ import annotations

from pathlib import Path

from policies.addresses import Prefix
from policies.config import values
from policies.config.reader import Reader
from policies.config.tables import Table
from policies.model import IkeIdentity, Site


class IkeTable(Table, frozen=True):
    """A site's `ike`."""

    local_id: str | None
    remote_id: str | None
    psk_file: Path | None

    @classmethod
    def read(cls, keys: Reader) -> IkeTable:
        return cls(
            path=keys.path,
            local_id=keys.required("local_id", values.identity),
            remote_id=keys.required("remote_id", values.identity),
            psk_file=keys.optional("psk_file", values.path_from(keys.base), None),
            unsound=keys.finish(),
        )

    def model(self) -> IkeIdentity:
        return IkeIdentity(
            local_id=self.local_id or self.incomplete(),
            remote_id=self.remote_id or self.incomplete(),
            psk_file=self.psk_file,
        )


class SiteTable(Table, frozen=True):
    """One `[[tenant.site]]`."""

    name: str | None
    gateway: str | None
    prefixes: tuple[Prefix, ...]
    peer: values.Peer | None
    ike: IkeTable | None

    @classmethod
    def read(cls, keys: Reader) -> SiteTable:
        if not keys.has("ike"):
            keys.note("ike", "is missing; write ike = { local_id = ..., remote_id = ..., psk_file = ... }")
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            gateway=keys.required("gateway", values.name),
            prefixes=keys.optional_list("prefixes", values.prefix),
            peer=keys.required("peer", values.peer),
            ike=keys.table("ike", IkeTable.read),
            unsound=keys.finish(),
        )

    def model(self) -> Site:
        peer = self.peer or self.incomplete()
        ike = self.ike or self.incomplete()
        return Site(
            name=self.name or self.incomplete(),
            gateway=self.gateway or self.incomplete(),
            prefixes=self.prefixes,
            peer=None if isinstance(peer, str) else peer,
            ike=ike.model(),
        )
