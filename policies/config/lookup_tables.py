"""The tables and keys of appliance.toml about the lookup service: serving records, and asking for them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from policies.config import service_values, values
from policies.config.reader import Reader
from policies.config.service_tables import CredentialTable, TlsTable
from policies.config.tables import Table
from policies.services import (
    DEFAULT_FLAP_MOVES,
    DEFAULT_FLAP_SECONDS,
    DEFAULT_LISTEN,
    DEFAULT_PREFIX,
    Etcd,
    LookupAccess,
    LookupSettings,
)


class EtcdTable(Table, frozen=True):
    """The `[lookup.etcd]`."""

    endpoints: tuple[str, ...]
    ca: Path | None
    cert: Path | None
    key: Path | None
    prefix: str

    @classmethod
    def read(cls, keys: Reader) -> EtcdTable:
        path = values.path_from(keys.base)
        return cls(
            path=keys.path,
            endpoints=keys.required_list("endpoints", service_values.url),
            ca=keys.optional("ca", path, None),
            cert=keys.optional("cert", path, None),
            key=keys.optional("key", path, None),
            prefix=keys.optional("prefix", service_values.key_prefix, DEFAULT_PREFIX),
            unsound=keys.finish(),
        )

    def model(self) -> Etcd:
        return Etcd(self.endpoints, self.ca, self.cert, self.key, self.prefix)


class LookupTable(Table, frozen=True):
    """The `[lookup]`."""

    listen: str
    store: str
    flap_moves: int
    flap_seconds: float
    tls: TlsTable | None
    tokens: tuple[CredentialTable, ...]
    certificates: tuple[CredentialTable, ...]
    etcd: EtcdTable | None

    @classmethod
    def read(cls, keys: Reader) -> LookupTable:
        return cls(
            path=keys.path,
            listen=keys.optional("listen", service_values.listen, DEFAULT_LISTEN),
            store=keys.optional("store", values.word("sqlite", "etcd"), "sqlite"),
            flap_moves=keys.optional("flap_moves", service_values.flap_moves, DEFAULT_FLAP_MOVES),
            flap_seconds=keys.optional("flap_seconds", service_values.flap_seconds, DEFAULT_FLAP_SECONDS),
            tls=keys.table("tls", TlsTable.read),
            tokens=keys.tables("token", CredentialTable.read_token),
            certificates=keys.tables("certificate", CredentialTable.read_certificate, named_by="subject"),
            etcd=keys.table("etcd", EtcdTable.read),
            unsound=keys.finish(),
        )

    def model(self) -> LookupSettings:
        return LookupSettings(
            listen=self.listen,
            store=self.store,
            tls=self.tls.model() if self.tls else None,
            credentials=tuple(credential.model() for credential in self.credentials),
            etcd=self.etcd.model() if self.etcd else None,
            flap_moves=self.flap_moves,
            flap_seconds=self.flap_seconds,
        )

    @property
    def credentials(self) -> tuple[CredentialTable, ...]:
        """All who may ask."""
        return self.tokens + self.certificates


class Asking(msgspec.Struct, frozen=True):
    """The keys of `[gateway]` and of `[host]` that say where records come from, and who is asking."""

    is_given: bool
    """Whether there is the key `lookup`, sound or not."""
    lookup: tuple[str, ...]
    token_file: Path | None
    ca: Path | None
    cert: Path | None
    key: Path | None

    @classmethod
    def read(cls, keys: Reader) -> Asking:
        path = values.path_from(keys.base)
        # An empty list would look like a node that has its network in the file.
        nodes = keys.required_list if keys.has("lookup") else keys.optional_list
        return cls(
            is_given=keys.has("lookup"),
            lookup=nodes("lookup", service_values.url),
            token_file=keys.optional("token_file", path, None),
            ca=keys.optional("ca", path, None),
            cert=keys.optional("cert", path, None),
            key=keys.optional("key", path, None),
        )

    def model(self) -> LookupAccess:
        return LookupAccess(self.lookup, self.token_file, self.ca, self.cert, self.key)

    @property
    def files(self) -> dict[str, Path]:
        """The files that are named, by their keys."""
        named = {"token_file": self.token_file, "ca": self.ca, "cert": self.cert, "key": self.key}
        return {name: file for name, file in named.items() if file is not None}
