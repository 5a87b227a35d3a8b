"""The commands `isthmus records …`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from gateway.cli.asking import NOWHERE, Service, access, usage, vsid_of
from gateway.cli.command_line import LOOKUP
from policies.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from policies.addresses import CustomerAddress, Vsid


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

        with usage():
            return self.tenant, vsid_of(self.tenant, self.vsid), CustomerAddress.parse(self.address)


records = App(name="records", group=LOOKUP, help="Show and change the records of a lookup service.")


def register(app: App) -> None:
    """Add these commands to the command line."""
    app.command(records)


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
        access(file, service),
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
    return commands.run(access(file, service), lambda client: commands.get_record(client, *key, json=json))


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
        The host's provider address; its first one, if not given. Of a VM that is rewritten, one of the host's
        pools; the one that it has, or a free one, if not given.
    translation
        encap or rewrite; as before or as the subnet says, if not given.
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
    with usage():
        station = MacAddress.parse(mac)
        address = ProviderAddress.parse(pa) if pa is not None else None
        way = Translation(translation) if translation is not None else None
    expected = epoch if epoch is not None else Expect.ANY if replace else Expect.ABSENT
    return commands.run(
        access(file, service),
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
        access(file, service), lambda client: commands.delete_record(client, *key, epoch, json=json)
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
    return commands.run(access(file, service), lambda client: commands.unfreeze(client, *key, json=json))


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
        access(file, service),
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
    node = access(configuration, service)
    reading = read(_octets(records_file), Format(form))
    return commands.run(
        node,
        lambda client: exchange_commands.import_(
            client, reading, replace=replace, dry_run=dry_run, json=json
        ),
    )


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
