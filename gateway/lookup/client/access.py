"""How the command line reaches the lookup service that a configuration speaks of."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from policies.errors import ConfigurationError, Problem
from policies.model import Appliance
from policies.services import LookupAccess, LookupSettings, Role


class Given(msgspec.Struct, frozen=True):
    """What the command line says itself. It wins over the configuration."""

    nodes: tuple[str, ...] = ()
    token_file: Path | None = None
    authority_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


def find_access(appliance: Appliance | None, given: Given) -> LookupAccess:
    """Return how to ask: as the node that serves records, as one that follows them, or as given.

    Raises ConfigurationError.
    """
    for url in given.nodes:
        _check(url)
    access = _configured(appliance, given) if appliance is not None else LookupAccess(given.nodes)
    changes = {
        name: value for name in Given.__struct_fields__ if (value := getattr(given, name)) not in (None, ())
    }
    access = msgspec.structs.replace(access, **changes)
    if not access.nodes:
        raise _mistake("which lookup service? Name a configuration, or a node by --lookup")
    return access


def _configured(appliance: Appliance, given: Given) -> LookupAccess:
    if appliance.lookup is not None:
        return _of_the_server(
            appliance.lookup, needs_token=given.token_file is None and given.key_file is None
        )
    if appliance.lookup_access is not None:
        return appliance.lookup_access
    if given.nodes:
        return LookupAccess(given.nodes)
    raise _mistake("the file has no [lookup] and names no lookup service: name a node by --lookup")


def _of_the_server(settings: LookupSettings, *, needs_token: bool) -> LookupAccess:
    """Ask the node of this configuration, on this machine, by an operator's token from its files."""
    host, _, port = settings.listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    scheme = "http" if settings.tls is None else "https"
    tokens = [each.token_file for each in settings.credentials if each.role is Role.OPERATOR]
    token = next((file for file in tokens if file is not None and os.access(file, os.R_OK)), None)
    if token is None and settings.credentials and needs_token:
        raise _mistake("the file names no operator's token that can be read here: give one by --token-file")
    # Who vouches for clients vouches for the node too, in a private installation; else name it by --ca.
    authority = settings.tls.client_authority_file if settings.tls is not None else None
    return LookupAccess((f"{scheme}://{host}:{port}",), token, authority)


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound:
        raise _mistake(f"{url!r} is no URL of a lookup node, such as https://192.0.2.253:7637")


def _mistake(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("", message)])
