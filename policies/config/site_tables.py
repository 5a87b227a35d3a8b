"""The tables of appliance.toml that describe a tenant's site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from policies.addresses import Prefix
from policies.config import site_values, values
from policies.config.proposals import esp_proposal, ike_proposal
from policies.config.reader import Parse, Reader
from policies.config.tables import Table
from policies.ipsec import PROFILES, EspProposal, IkeProposal, Lifetimes, SelectorMode, SiteStart
from policies.model import IkeIdentity, Site

T = TypeVar("T")

DEFAULT_PROFILE = "modern"
DEFAULT_LIVENESS = 10.0


class IkeTable(Table, frozen=True):
    """A site's `ike`."""

    local_id: str | None
    remote_id: str | None
    psk_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    authority_files: tuple[Path, ...]
    revocation_files: tuple[Path, ...]

    @classmethod
    def read(cls, keys: Reader) -> IkeTable:
        file = values.path_from(keys.base)
        return cls(
            path=keys.path,
            local_id=keys.required("local_id", site_values.identity),
            remote_id=keys.required("remote_id", site_values.identity),
            psk_file=keys.optional("psk_file", file, None),
            certificate_file=keys.optional("certificate_file", file, None),
            key_file=keys.optional("key_file", file, None),
            authority_files=_list_unless_absent(keys, "authority_files", file),
            revocation_files=_list_unless_absent(keys, "revocation_files", file),
            unsound=keys.finish(),
        )

    def model(self) -> IkeIdentity:
        return IkeIdentity(
            local_id=self.local_id or self.incomplete(),
            remote_id=self.remote_id or self.incomplete(),
            psk_file=self.psk_file,
            certificate_file=self.certificate_file,
            key_file=self.key_file,
            authority_files=self.authority_files,
            revocation_files=self.revocation_files,
        )


class LifetimesTable(Table, frozen=True):
    """A site's `lifetimes`."""

    ike: float
    child: float
    bytes: int
    packets: int

    @classmethod
    def read(cls, keys: Reader) -> LifetimesTable:
        default = Lifetimes()
        lifetime = site_values.duration(1, 30 * 86400)
        return cls(
            path=keys.path,
            ike=keys.optional("ike", lifetime, default.ike_seconds),
            child=keys.optional("child", lifetime, default.child_seconds),
            bytes=keys.optional("bytes", site_values.volume, default.child_bytes),
            packets=keys.optional("packets", site_values.packets, default.child_packets),
            unsound=keys.finish(),
        )

    def model(self) -> Lifetimes:
        return Lifetimes(self.ike, self.child, self.bytes, self.packets)


class SiteTable(Table, frozen=True):
    """One `[[tenant.site]]`. `given` holds the keys that are there, whether sound or not."""

    given: frozenset[str]
    name: str | None
    gateway: str | None
    prefixes: tuple[Prefix, ...]
    local_prefixes: tuple[Prefix, ...]
    peer: values.Peer | None
    start: SiteStart | None
    profile: str
    ike_proposals: tuple[IkeProposal, ...]
    esp_proposals: tuple[EspProposal, ...]
    selectors: SelectorMode
    liveness: float
    lifetimes: LifetimesTable | None
    force_udp: bool
    mtu: int | None
    ike: IkeTable | None

    @classmethod
    def read(cls, keys: Reader) -> SiteTable:
        if not keys.has("ike"):
            keys.note("ike", "is missing; write ike = { local_id = ..., remote_id = ..., psk_file = ... }")
        return cls(
            path=keys.path,
            given=keys.names,
            name=keys.required("name", values.name),
            gateway=keys.required("gateway", values.name),
            prefixes=keys.optional_list("prefixes", values.prefix),
            local_prefixes=_list_unless_absent(keys, "local_prefixes", values.prefix),
            peer=keys.required("peer", values.peer),
            start=keys.optional("start", values.member(SiteStart), None),
            profile=keys.optional("profile", values.word(*PROFILES), DEFAULT_PROFILE),
            ike_proposals=_list_unless_absent(keys, "ike_proposals", ike_proposal),
            esp_proposals=_list_unless_absent(keys, "esp_proposals", esp_proposal),
            selectors=keys.optional("selectors", values.member(SelectorMode), SelectorMode.ALL),
            liveness=keys.optional("liveness", site_values.duration(1, 86400), DEFAULT_LIVENESS),
            lifetimes=keys.table("lifetimes", LifetimesTable.read),
            force_udp=keys.optional("force_udp", values.boolean, False),
            mtu=keys.optional("mtu", values.mtu, None),
            ike=keys.table("ike", IkeTable.read),
            unsound=keys.finish(),
        )

    def model(self) -> Site:
        peer = self.peer or self.incomplete()
        ike = self.ike or self.incomplete()
        dials_in = isinstance(peer, str)
        profile_ike, profile_esp = PROFILES[self.profile]
        return Site(
            name=self.name or self.incomplete(),
            gateway=self.gateway or self.incomplete(),
            prefixes=self.prefixes,
            peer=None if isinstance(peer, str) else peer,
            ike=ike.model(),
            local_prefixes=self.local_prefixes,
            start=self.start or (SiteStart.RESPOND if dials_in else SiteStart.START),
            ike_proposals=self.ike_proposals or profile_ike,
            esp_proposals=self.esp_proposals or profile_esp,
            selectors=self.selectors,
            lifetimes=self.lifetimes.model() if self.lifetimes else Lifetimes(),
            liveness=self.liveness,
            force_udp=self.force_udp,
            mtu=self.mtu,
        )

    @property
    def agreed_ike_proposals(self) -> tuple[IkeProposal, ...]:
        """The explicit ones, or the profile's."""
        return self.ike_proposals or PROFILES[self.profile][0]


def _list_unless_absent(keys: Reader, key: str, parse: Parse[T]) -> tuple[T, ...]:
    """A list whose absence has a meaning of its own, so that it must not be empty."""
    read: Callable[[str, Parse[T]], tuple[T, ...]]
    read = keys.required_list if keys.has(key) else keys.optional_list
    return read(key, parse)
