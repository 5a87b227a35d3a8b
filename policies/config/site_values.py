"""The values that sites are written in: identities, times and amounts of traffic.

Each function takes what TOML gave and returns the model's value, or raises
ValueError with a message that says what would be right.
"""

from __future__ import annotations

import re

from policies.config import values
from policies.config.reader import Parse, shown

_KEY_ID = re.compile(r"keyid:(?:[0-9A-Fa-f]{2}){1,128}")
_NAME_OR_ADDRESS = re.compile(r"[!-~]{1,255}")
_NAME_SEPARATOR = re.compile(r"(?<!\\)[,+]")
_ATTRIBUTES = (
    *("C", "ST", "S", "L", "STREET", "O", "OU", "CN", "SN", "G", "T"),
    *("SERIALNUMBER", "DC", "UID", "E", "EMAIL", "EMAILADDRESS"),
)
_ASCII_ATTRIBUTES = ("C", "SERIALNUMBER", "DC", "E", "EMAIL", "EMAILADDRESS")

_VOLUME_UNITS = {**values.SIZE_UNITS, "tb": 10**12, "tib": 1 << 40}
_TIME_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def identity(value: object) -> str:
    """An IKE identity: a domain name, a mail address, an address, a distinguished name or a key ID."""
    written = values.text(value)
    if written.startswith("keyid:"):
        if not _KEY_ID.fullmatch(written):
            raise ValueError(f'{shown(value)} is not a key ID such as "keyid:0badcafe", in hexadecimal')
    elif "=" in written:
        for attribute in _NAME_SEPARATOR.split(written):
            _check_attribute(attribute, value)
    elif not _NAME_OR_ADDRESS.fullmatch(written):
        raise ValueError(f'{shown(value)} is not an identity such as "edge-1.example"')
    return written


def _check_attribute(written: str, name: object) -> None:
    word, equals, value = (part.strip() for part in written.partition("="))
    word = word.upper()
    if not equals or not value or not written.isprintable() or len(value) > 128:
        raise ValueError(f'{shown(name)} is not a distinguished name such as "C=CH, O=Red, CN=edge-1"')
    if word not in _ATTRIBUTES:
        raise ValueError(f"{shown(word)} is no attribute of a name; known: {', '.join(_ATTRIBUTES)}")
    if word in _ASCII_ATTRIBUTES and not value.isascii():
        raise ValueError(f"{word} in {shown(name)} is not in ASCII")
    if (word == "C" and len(value) != 2) or (word == "CN" and len(value) > 64):
        right = "two letters" if word == "C" else "at most 64 characters"
        raise ValueError(f"{word} in {shown(name)} is too long or too short; use {right}")


def volume(value: object) -> int:
    """Octets that an SA may carry."""
    right = 'a size in octets, or such as "500 GB" (B, kB, MB, GB, TB, KiB, MiB, GiB or TiB)'
    octets = (
        values.number(value) if isinstance(value, int) else values.whole_quantity(value, _VOLUME_UNITS, right)
    )
    if not 1 << 16 <= octets <= 1 << 50:
        raise ValueError(f"{shown(value)} is not between 64 KiB and 1024 TiB")
    return octets


def packets(value: object) -> int:
    """Packets that an SA may carry: with a tenth above still fewer than 32-bit sequence numbers."""
    if not 1000 <= values.number(value) <= 3_900_000_000:
        raise ValueError(f"{shown(value)} is not a number of packets; use 1000 to 3900000000")
    return values.number(value)


def duration(least: int, most: int) -> Parse[float]:
    """Seconds, between these two, both included."""
    right = f'a time such as "{least} s" (s, min, h or d)'

    def parse(value: object) -> float:
        seconds = float(values.quantity(value, _TIME_UNITS, right))
        if not least <= seconds <= most:
            raise ValueError(f"{shown(value)} is not between {least} s and {most} s")
        return seconds

    return parse
