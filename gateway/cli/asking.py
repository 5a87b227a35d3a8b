"""How the commands that ask a lookup service say where it is, who asks, and about what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from policies.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from policies.addresses import Vsid
    from policies.model import Appliance, Lease, LookupRecord
    from policies.services import LookupAccess


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Service:
    """Where the lookup service is, and who asks: besides FILE, or instead of it."""

    lookup: tuple[str, ...] = ()
    """A lookup node's URL, such as https://192.0.2.253:7637. May be there several times."""
    token_file: Path | None = None
    """The file with the token to show."""
    ca: Path | None = None
    """Who vouches for the nodes' certificates, PEM; the machine's own authorities unless named."""
    cert: Path | None = None
    """The certificate to show, PEM."""
    key: Path | None = None
    """Its private key, PEM."""


NOWHERE = Service()


def with_contents(
    appliance: Appliance,
    service: Service,
    tenant: str | None,
    use: Callable[[Appliance, Sequence[LookupRecord], Sequence[Lease]], None],
) -> int:
    """Use an appliance with the lookup service's network, and the records and leases of a tenant, or all.

    Returns the process's exit code. Raises Unanswered and ConfigurationError.
    """
    import msgspec

    from gateway.lookup.client import LookupClient, commands

    async def ask(client: LookupClient) -> int:
        network, records, leases = await commands.contents(client, tenant)
        use(msgspec.structs.replace(appliance, network=network), records, leases)
        return 0

    return commands.run(find(appliance, service), ask)


def access(file: Path | None, service: Service) -> LookupAccess:
    """Return how a lookup service is reached, by FILE and by what is given. Raises ConfigurationError."""
    from policies.config import load

    return find(load(file) if file is not None else None, service)


def find(appliance: Appliance | None, service: Service) -> LookupAccess:
    """Return the same by a configuration that has been read."""
    from gateway.lookup.client.access import Given, find_access

    given = Given(service.lookup, service.token_file, service.ca, service.cert, service.key)
    return find_access(appliance, given)


def vsid_of(tenant: str | None, vsid: int | None) -> Vsid | None:
    """Return the VSID that is given, or None for a tenant instead. Raises ValueError for both, or neither."""
    from policies.addresses import Vsid

    if (tenant is None) == (vsid is None):
        raise ValueError("one of --tenant and --vsid is wanted")
    return Vsid(vsid) if vsid is not None else None


@contextmanager
def usage() -> Iterator[None]:
    """What cannot be read is the caller's mistake."""
    try:
        yield
    except ValueError as error:
        raise ConfigurationError([Problem("", str(error))]) from None
