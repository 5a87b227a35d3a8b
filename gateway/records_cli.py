"""The commands that ask a lookup service: `apply`, `records …`, `migrate`, `moves`, `nodes` and `alerts`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from gateway.command_line import LOOKUP
from policies.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from policies.addresses import CustomerAddress, Vsid
    from policies.model import Appliance, LookupAccess, LookupRecord


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Which record."""

    address: str
    """The customer address."""
    tenant: str | None = None
    """Whose address it is; or give the VSID."""
    vsid: int | None = None
    """The virtual subnet."""

    @property
    def key(self) -> tuple[str | None, Vsid | None, CustomerAddress]:
        """The tenant, the VSID and the customer address. Raises ConfigurationError."""
        from policies.addresses import CustomerAddress

        with _usage():
            return self.tenant, _vsid(self.tenant, self.vsid), CustomerAddress.parse(self.address)


NOWHERE = Service()

records = App(name="records", group=LOOKUP, help="Show and change the records of a lookup service.")


def register(app: App) -> None:
    """Add these commands to the command line."""
    app.command(records)
    for command in (apply, migrate, moves, nodes, alerts):
        app.command(command, group=LOOKUP)


def apply(file: Path, *, dry_run: bool = False, json: bool = False, service: Service = NOWHERE) -> int:
    """Have a lookup service's network be as in FILE, and show what that changes.

    Hosts, gateways, tenants and static records that are not in FILE are deleted; the records
    of VMs stay.

    Parameters
    ----------
    file
        The configuration with the network; it also says where the lookup service is, unless --lookup does.
    dry_run
        Change nothing: show what would be changed.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands
    from policies.config import load

    appliance = load(file)
    # The file of a gateway that follows has itself in its network, and nothing else.
    if not (appliance.network.tenants or appliance.network.hosts):
        raise ConfigurationError([Problem("", f"{file} has no network: it would delete the whole one")])
    return commands.run(
        _find(appliance, service),
        lambda client: commands.apply(client, appliance.network, dry_run=dry_run, json=json),
    )


@records.command(name="list")
def list_(
    file: Path | None = None,
    *,
    tenant: str | None = None,
    vsid: int | None = None,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Show the records: all, a tenant's or a virtual subnet's.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    tenant
        Only this tenant's.
    vsid
        Only this virtual subnet's.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands
    from policies.addresses import Vsid

    only = Vsid(vsid) if vsid is not None else None
    return commands.run(
        _access(file, service),
        lambda client: commands.list_records(client, tenant=tenant, vsid=only, json=json),
    )


@records.command
def get(
    file: Path | None = None,
    *,
    where: Where,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Show one record.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands

    key = where.key
    return commands.run(_access(file, service), lambda client: commands.get_record(client, *key, json=json))


@records.command
def put(
    file: Path | None = None,
    *,
    where: Where,
    mac: str,
    host: str,
    pa: str | None = None,
    translation: str | None = None,
    epoch: int | None = None,
    replace: bool = False,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Write one record, which is new unless --epoch or --replace says otherwise.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records.
    mac
        The VM's MAC address.
    host
        The host where it is.
    pa
        The host's provider address; its first one, if not given.
    translation
        encap; as before or as the subnet says, if not given.
    epoch
        Only if the record is there with this epoch.
    replace
        Only if the record is there, whatever its epoch.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands
    from gateway.lookup.store import Expect
    from policies.addresses import MacAddress, ProviderAddress
    from policies.model import Translation

    key = where.key
    with _usage():
        station = MacAddress.parse(mac)
        address = ProviderAddress.parse(pa) if pa is not None else None
        way = Translation(translation) if translation is not None else None
    expected = epoch if epoch is not None else Expect.ANY if replace else Expect.ABSENT
    return commands.run(
        _access(file, service),
        lambda client: commands.put_record(
            client,
            *key,
            mac=station,
            host=host,
            pa=address,
            translation=way,
            expected=expected,
            json=json,
        ),
    )


@records.command
def delete(
    file: Path | None = None,
    *,
    where: Where,
    epoch: int | None = None,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Delete one record.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records.
    epoch
        Only if this is the record's epoch.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands

    key = where.key
    return commands.run(
        _access(file, service), lambda client: commands.delete_record(client, *key, epoch, json=json)
    )


@records.command
def unfreeze(
    file: Path | None = None,
    *,
    where: Where,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Let a record move again that was frozen because it moved too often.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands

    key = where.key
    return commands.run(_access(file, service), lambda client: commands.unfreeze(client, *key, json=json))


@records.command
def export(
    file: Path | None = None,
    *,
    form: Annotated[Literal["json", "csv", "powershell"], Parameter(name="--format")],
    tenant: str | None = None,
    rdid: tuple[str, ...] = (),
    output: Path | None = None,
    service: Service = NOWHERE,
) -> int:
    """Write the records as JSON, as CSV, or as PowerShell for a Windows host: all, or a tenant's.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    form
        json, csv, or powershell: a script for Hyper-V hosts of Windows Server 2012 R2, untested.
    tenant
        Only this tenant's.
    rdid
        TENANT=GUID: the routing domain ID of a tenant whose configuration has none, for powershell. May
        be there several times.
    output
        Where to; standard output, if not given. Written as a whole, or not at all.
    """
    from gateway.lookup.client import commands, exchange_commands

    rdids = dict(_pair(each) for each in rdid)
    return commands.run(
        _access(file, service),
        lambda client: exchange_commands.export(
            client, exchange_commands.ExportFormat(form), tenant=tenant, rdids=rdids, output=output
        ),
    )


@records.command(name="import")
def import_(
    file: Path,
    source: Path | None = None,
    *,
    form: Annotated[Literal["auto", "json", "csv"], Parameter(name="--format")] = "auto",
    replace: bool = False,
    dry_run: bool = False,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Write the records of a file to a lookup service.

    The file is JSON, CSV, or what Get-NetVirtualizationLookupRecord | ConvertTo-Json prints on Windows.
    Nothing is written if anything in the file is wrong, or is there already as something else. The same
    command again goes on where one was broken off.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them. May be left out
        where --lookup is given.
    source
        The file with the records; - is standard input.
    form
        json, csv, or auto: see what it begins with.
    replace
        Have the file win where a record is there already as something else.
    dry_run
        Change nothing: show what would be changed.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands, exchange_commands
    from gateway.lookup.exchange.reading import Format, read

    configuration, records_file = (None, file) if source is None else (file, source)
    access = _access(configuration, service)
    reading = read(_octets(records_file), Format(form))
    return commands.run(
        access,
        lambda client: exchange_commands.import_(
            client, reading, replace=replace, dry_run=dry_run, json=json
        ),
    )


def migrate(
    file: Path | None = None,
    *,
    vm: str,
    to: str,
    tenant: str | None = None,
    vsid: int | None = None,
    pa: str | None = None,
    wait: float = 1.0,
    json: bool = False,
    service: Service = NOWHERE,
) -> int:
    """Move a VM's records to another host, before the VM resumes there, and wait until both hosts know.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records.
    vm
        One of the VM's customer addresses, or its MAC address.
    to
        The host where it will be.
    tenant
        Whose VM it is; or give the VSID.
    vsid
        The virtual subnet.
    pa
        The new host's provider address; the first of the present one's IP version, if not given.
    wait
        For how many seconds the old and the new host are waited for.
    json
        Print one JSON object.
    """
    from gateway.lookup.client import commands
    from policies.addresses import CustomerAddress, MacAddress, ProviderAddress

    with _usage():
        only = _vsid(tenant, vsid)
        machine: CustomerAddress | MacAddress
        is_mac = len(vm) == len("02:00:00:00:01:05") and len(vm.replace("-", ":").split(":")) == 6
        machine = MacAddress.parse(vm) if is_mac else CustomerAddress.parse(vm)
        address = ProviderAddress.parse(pa) if pa is not None else None
    return commands.run(
        _access(file, service),
        lambda client: commands.migrate(
            client, tenant, only, machine, to=to, pa=address, wait=wait, json=json
        ),
    )


def nodes(file: Path | None = None, *, json: bool = False, service: Service = NOWHERE) -> int:
    """Show the hosts and gateways that follow a lookup node, and what they have learned.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands

    return commands.run(_access(file, service), lambda client: commands.nodes(client, json=json))


def alerts(file: Path | None = None, *, json: bool = False, service: Service = NOWHERE) -> int:
    """Show the last alerts of a lookup node: what it refused, and records that moved too often.

    Parameters
    ----------
    file
        The configuration, appliance.toml, of whoever serves records or follows them.
    json
        Print one JSON array.
    """
    from gateway.lookup.client import commands

    return commands.run(_access(file, service), lambda client: commands.alerts(client, json=json))


def moves(file: Path, *, json: bool = False) -> int:
    """Show the last moves of records that the appliance which runs by FILE has seen, the newest first.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON array.
    """
    import msgspec

    from gateway.command_line import ask, say_json
    from gateway.lookup.movements import Move, in_words

    answer = ask(file, "moves")
    if json:
        say_json(answer)
        return 0
    found = msgspec.convert(answer, list[Move])
    for move in found:
        for line in in_words(move):
            print(line)
    if not found:
        print("no record has moved since this appliance started")
    return 0


def with_contents(
    appliance: Appliance,
    service: Service,
    tenant: str | None,
    use: Callable[[Appliance, Sequence[LookupRecord]], None],
) -> int:
    """Use an appliance with the lookup service's network, and with the records of a tenant, or all of them.

    Returns the process's exit code. Raises Unanswered and ConfigurationError.
    """
    import msgspec

    from gateway.lookup.client import LookupClient, commands

    async def ask(client: LookupClient) -> int:
        network, records = await commands.contents(client, tenant)
        use(msgspec.structs.replace(appliance, network=network), records)
        return 0

    return commands.run(_find(appliance, service), ask)


def _access(file: Path | None, service: Service) -> LookupAccess:
    from policies.config import load

    return _find(load(file) if file is not None else None, service)


def _find(appliance: Appliance | None, service: Service) -> LookupAccess:
    from gateway.lookup.client.access import Given, find_access

    given = Given(service.lookup, service.token_file, service.ca, service.cert, service.key)
    return find_access(appliance, given)


def _vsid(tenant: str | None, vsid: int | None) -> Vsid | None:
    from policies.addresses import Vsid

    if (tenant is None) == (vsid is None):
        raise ValueError("one of --tenant and --vsid is wanted")
    return Vsid(vsid) if vsid is not None else None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError([Problem("--rdid", f"{text!r}: TENANT=GUID is wanted")])
    return name, value


def _octets(source: Path) -> bytes:
    if str(source) == "-":
        return sys.stdin.buffer.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise ConfigurationError([Problem("", f"{source}: {error.strerror}")]) from None


@contextmanager
def _usage() -> Iterator[None]:
    """What cannot be read is the caller's mistake."""
    try:
        yield
    except ValueError as error:
        raise ConfigurationError([Problem("", str(error))]) from None
