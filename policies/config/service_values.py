"""The values that services are configured with: where they listen and are, and when moves freeze a record.

Each function takes what TOML gave and returns the model's value, or raises
ValueError with a message that says what would be right.
"""

from __future__ import annotations

import ipaddress
import re

from policies.config import values
from policies.config.reader import shown

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?/?"
)
_KEY_PREFIX = re.compile(r"/(?:[A-Za-z0-9_.-]{1,64}/){1,8}")


def listen(value: object) -> str:
    """An address and a port to serve on."""
    host, colon, port = values.text(value).rpartition(":")
    right = f'{shown(value)} is not an address and a port such as "127.0.0.1:7637" or "[::1]:7637"'
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise ValueError(right)
    if host == "localhost":
        return values.text(value)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(right) from None
    if (address.version == 6) != (bare != host):
        raise ValueError(right)
    return values.text(value)


def url(value: object) -> str:
    """Where a service is: by HTTPS, or on this machine by HTTP; without a slash at the end."""
    found = _URL.fullmatch(values.text(value))
    if not found or not 0 < int(found["port"] or 443) <= 65535 or not _is_url_host(found["host"]):
        raise ValueError(f'{shown(value)} is not an address such as "https://192.0.2.253:7637"')
    if found["scheme"] == "http" and not is_on_loopback(found["host"]):
        raise ValueError(f'{shown(value)} would be in the clear; write "https://", or http on loopback only')
    return values.text(value).rstrip("/")


def is_on_loopback(host: str) -> bool:
    """Whether a literal address (IPv6's in brackets) or a name is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def key_prefix(value: object) -> str:
    """What the names of all keys in a store begin with."""
    if not _KEY_PREFIX.fullmatch(values.text(value)):
        raise ValueError(
            f'{shown(value)} is not a prefix of keys such as "/isthmus/", with a slash at both ends'
        )
    return values.text(value)


def flap_moves(value: object) -> int:
    """How many moves freeze a record."""
    if not 2 <= values.number(value) <= 1000:
        raise ValueError(f"{shown(value)} is not a number of moves; use 2 to 1000")
    return values.number(value)


def flap_seconds(value: object) -> float:
    """In how many seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= 86400:
        raise ValueError(f"{shown(value)} is not a number of seconds; use 1 to 86400")
    return float(value)


def _is_url_host(host: str) -> bool:
    """Whether it can be a name, or is an address: not something like 10.0.0.256."""
    if not host.startswith("[") and host.rpartition(".")[2][:1].isalpha():
        return all(0 < len(label) < 64 and label.strip("-") == label for label in host.split("."))
    try:
        return (ipaddress.ip_address(host.strip("[]")).version == 6) == host.startswith("[")
    except ValueError:
        return False
