"""The lookup service and the operating interface as configured: where they listen, who may ask, and how."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

DEFAULT_LISTEN = "127.0.0.1:7637"
DEFAULT_API_LISTEN = "127.0.0.1:7638"
DEFAULT_PREFIX = "/isthmus/"
DEFAULT_FLAP_MOVES = 5
DEFAULT_FLAP_SECONDS = 180.0

ALL_TENANTS = "*"
"""What a reader sees who sees the records of all tenants, of those to come too."""


class Role(StrEnum):
    """What whoever asks the lookup service may do."""

    READER = "reader"
    """See the records of named tenants."""
    HOST = "host"
    """Claim for its own provider addresses, in its tenants."""
    GATEWAY = "gateway"
    """See everything, and have hosts taught."""
    OPERATOR = "operator"
    """Change everything."""


class Credential(msgspec.Struct, frozen=True):
    """Someone who may ask a service: known by a token, or by a client certificate's name.

    A host's or a gateway's `name` is that of its entry in the network.
    """

    name: str
    role: Role
    tenants: tuple[str, ...] = ()
    """What a reader may see; a host's tenants are in the network."""
    token_file: Path | None = None
    subject: str | None = None
    """The certificate's common name, or one of its DNS names."""


class ServerTls(msgspec.Struct, frozen=True):
    """A service's certificate and key, PEM, and who may vouch for clients' certificates."""

    certificate_file: Path
    key_file: Path
    client_authority_file: Path | None = None


class Etcd(msgspec.Struct, frozen=True):
    """The cluster that holds the records: its members' client URLs, and how they are spoken to."""

    endpoints: tuple[str, ...]
    authority_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    prefix: str = DEFAULT_PREFIX


class LookupSettings(msgspec.Struct, frozen=True):
    """The role of serving records: where to listen, who may ask, and which store holds them."""

    listen: str = DEFAULT_LISTEN
    store: str = "sqlite"
    tls: ServerTls | None = None
    credentials: tuple[Credential, ...] = ()
    etcd: Etcd | None = None
    flap_moves: int = DEFAULT_FLAP_MOVES
    """So many announced moves of a record ..."""
    flap_seconds: float = DEFAULT_FLAP_SECONDS
    """... in so many seconds freeze it."""


class ApiSettings(msgspec.Struct, frozen=True):
    """Where the operating interface listens, and who may ask: readers and operators."""

    listen: str = DEFAULT_API_LISTEN
    tls: ServerTls | None = None
    credentials: tuple[Credential, ...] = ()


class LookupAccess(msgspec.Struct, frozen=True):
    """How a host or a gateway reaches the lookup service: the nodes' URLs, and its credential."""

    nodes: tuple[str, ...]
    token_file: Path | None = None
    authority_file: Path | None = None
    """Who vouches for the nodes' certificates; the machine's own authorities unless named."""
    certificate_file: Path | None = None
    key_file: Path | None = None
