"""The tables and keys of appliance.toml that every service by HTTP has: where it listens, and who may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from policies.config import service_values, values
from policies.config.reader import Reader
from policies.config.tables import Table
from policies.services import DEFAULT_API_LISTEN, ApiSettings, Credential, Role, ServerTls


class TlsTable(Table, frozen=True):
    """The `[lookup.tls]` or `[api.tls]`."""

    cert: Path | None
    key: Path | None
    client_ca: Path | None

    @classmethod
    def read(cls, keys: Reader) -> TlsTable:
        path = values.path_from(keys.base)
        return cls(
            path=keys.path,
            cert=keys.required("cert", path),
            key=keys.required("key", path),
            client_ca=keys.optional("client_ca", path, None),
            unsound=keys.finish(),
        )

    def model(self) -> ServerTls:
        return ServerTls(self.cert or self.incomplete(), self.key or self.incomplete(), self.client_ca)


class CredentialTable(Table, frozen=True):
    """One `[[lookup.token]]` or `[[lookup.certificate]]`, or the same of `[api]`."""

    name: str | None
    role: Role | None
    tenants: tuple[str, ...]
    token_file: Path | None = None
    subject: str | None = None

    @classmethod
    def read_token(cls, keys: Reader) -> CredentialTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            role=keys.required("role", values.member(Role)),
            tenants=keys.optional_list("tenants", values.name_or_all),
            token_file=keys.required("token_file", values.path_from(keys.base)),
            unsound=keys.finish(),
        )

    @classmethod
    def read_certificate(cls, keys: Reader) -> CredentialTable:
        subject = keys.required("subject", values.name)
        return cls(
            path=keys.path,
            subject=subject,
            name=keys.optional("name", values.name, subject),
            role=keys.required("role", values.member(Role)),
            tenants=keys.optional_list("tenants", values.name_or_all),
            unsound=keys.finish(),
        )

    def model(self) -> Credential:
        return Credential(
            name=self.name or self.incomplete(),
            role=self.role or self.incomplete(),
            tenants=self.tenants,
            token_file=self.token_file,
            subject=self.subject,
        )


class ServiceTable(Protocol):
    """What `[lookup]` and `[api]` have in common."""

    @property
    def path(self) -> str: ...
    @property
    def unsound(self) -> frozenset[str]: ...
    @property
    def listen(self) -> str: ...
    @property
    def tls(self) -> TlsTable | None: ...
    @property
    def tokens(self) -> tuple[CredentialTable, ...]: ...
    @property
    def certificates(self) -> tuple[CredentialTable, ...]: ...
    @property
    def credentials(self) -> tuple[CredentialTable, ...]: ...


class ApiTable(Table, frozen=True):
    """The `[api]`."""

    listen: str
    tls: TlsTable | None
    tokens: tuple[CredentialTable, ...]
    certificates: tuple[CredentialTable, ...]

    @classmethod
    def read(cls, keys: Reader) -> ApiTable:
        return cls(
            path=keys.path,
            listen=keys.optional("listen", service_values.listen, DEFAULT_API_LISTEN),
            tls=keys.table("tls", TlsTable.read),
            tokens=keys.tables("token", CredentialTable.read_token),
            certificates=keys.tables("certificate", CredentialTable.read_certificate, named_by="subject"),
            unsound=keys.finish(),
        )

    def model(self) -> ApiSettings:
        return ApiSettings(
            listen=self.listen,
            tls=self.tls.model() if self.tls else None,
            credentials=tuple(credential.model() for credential in self.credentials),
        )

    @property
    def credentials(self) -> tuple[CredentialTable, ...]:
        """All who may ask."""
        return self.tokens + self.certificates
