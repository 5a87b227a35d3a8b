"""Writes the parts of these documents that the code knows better: `make docs`."""

from __future__ import annotations

import re
import tomllib
from enum import Enum
from pathlib import Path

import msgspec
import trio

from gateway.aio import event_loop
from gateway.api.families import FAMILIES
from gateway.api.interface import TITLE
from gateway.api.openapi import described
from gateway.api.reference import reference
from gateway.builtin import Builtin
from gateway.changes.reload import Reload
from gateway.forwarding.directory import Directory
from gateway.http import interface as interfaces
from gateway.http.interface import Interface
from gateway.lookout import Lookout
from gateway.lookup.http import openapi as lookup_openapi
from gateway.lookup.http.openapi_schemas import components
from gateway.membership import Membership
from gateway.operating import events
from gateway.questions import commands_of
from gateway.sites.policies import Keyring
from gateway.underlay.interfaces import Attachment
from policies.config.schema import KeySchema, TableSchema, tables
from policies.model import Appliance, Engine, Network
from policies.services import LookupSettings

HERE = Path(__file__).parent
CONFIGURATION = HERE / "configuration.md"
MEANINGS = HERE / "keys.toml"
HTTP = HERE / "http.md"
MONITORING = HERE / "monitoring.md"

Meanings = dict[str, dict[str, dict[str, str]]]

# The keys of those who ask lookup services have a section of their own.
ASKING = ("lookup", "token_file", "ca", "cert", "key")
ASKERS = ("gateway", "host")

# The operating interface has the same tables as the lookup service.
ALIKE = {f"api.{table}": f"lookup.{table}" for table in ("tls", "token", "certificate")}

_MARKED_CALLS = re.compile(r"(<!-- calls -->\n).*?(<!-- end of calls -->)", re.DOTALL)
_MARKED_METRICS = re.compile(r"(<!-- metrics -->\n).*?(<!-- end of metrics -->)", re.DOTALL)
_MARKED = re.compile(r"(<!-- keys: ([\w. ]+) -->\n).*?(<!-- end of keys -->)", re.DOTALL)


def configuration(document: str, meanings: Meanings) -> str:
    """Return the configuration's document with the tables of its keys as they are now."""
    found = {table.path: table for table in tables()}

    def rows(match: re.Match[str]) -> str:
        header = "| key | meaning | default | example |\n| --- | --- | --- | --- |\n"
        lines = [
            f"{_row(prefix, key, meanings[path][key.name])}\n"
            for path in match[2].split()
            for prefix, key in _keys(found, path)
        ]
        return f"{match[1]}{header}{''.join(lines)}{match[3]}"

    return _MARKED.sub(rows, document)


def meanings() -> Meanings:
    """Return what each key means, by table and key."""
    return tomllib.loads(MEANINGS.read_text())


def written_default(key: KeySchema) -> str | None:
    """Return a key's default as an operator would write it, or None where the code cannot say."""
    value = key.default.value if isinstance(key.default, Enum) else key.default
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:g}"
        case str() | Path():
            return f'"{value}"'
        case _:
            return None


def _keys(found: dict[str, TableSchema], path: str) -> list[tuple[str, KeySchema]]:
    if path == "asking":
        return [("", key) for key in found["host"].keys if key.name in ASKING]
    table = found[path]
    prefix = f"{path.rpartition('.')[2]}." if path.startswith("tenant.site.") else ""
    return [(prefix, key) for key in table.keys if not (path in ASKERS and key.name in ASKING)]


def _row(prefix: str, key: KeySchema, words: dict[str, str]) -> str:
    written = written_default(key)
    default = words.get("default") or (f"`{written}`" if written is not None else "")
    if not default:
        default = "must be there" if key.is_required else "none"
    return f"| `{prefix}{key.name}` | {words['meaning']} | {default} | `{words['example']}` |"


def metrics(document: str) -> str:
    """Return the guide to monitoring with the table of metrics as they are now."""
    header = "| metric | labels | meaning |\n| --- | --- | --- |\n"
    rows = "".join(
        f"| `{each.name}` | {', '.join(f'`{label}`' for label in each.labels)} | {each.help} |\n"
        for each in FAMILIES.values()
    )
    return _MARKED_METRICS.sub(lambda match: f"{match[1]}{header}{rows}{match[2]}", document)


def http(document: str) -> str:
    """Return the HTTP reference with its calls and values as they are now."""
    found = msgspec.json.decode(everything_by_http())
    return _MARKED_CALLS.sub(lambda match: f"{match[1]}{reference(found)}{match[2]}", document)


def everything_by_http() -> bytes:
    """Return the OpenAPI document of an appliance that has all roles, as JSON."""
    return trio.run(_everything_by_http)


async def _everything_by_http() -> bytes:
    network, state = Network(), Path("/var/lib/isthmus")
    appliance = Appliance("edge-1", state, Engine.PYTHON, None, True, LookupSettings(), None, network)
    path = Builtin(appliance, Attachment((), 1500), Directory())
    async with event_loop() as loop:
        source = Membership(appliance, loop, path, Keyring())
        reload = Reload(source, lambda _file: appliance, Keyring(), wall_clock=float)
        with events.kept(float) as happenings:
            lookout = Lookout(appliance, path, float, float)
            commands = commands_of(appliance, path, reload, happenings, source, lookout)
    paths, schemas = described(commands, is_beside=True)
    return interfaces.document(
        TITLE,
        Interface((), lookup_openapi.paths(), components()),
        Interface((), paths, schemas),
    )


def main() -> None:
    """Write the documents anew."""
    CONFIGURATION.write_text(configuration(CONFIGURATION.read_text(), meanings()))
    HTTP.write_text(http(HTTP.read_text()))
    MONITORING.write_text(metrics(MONITORING.read_text()))


if __name__ == "__main__":
    main()
