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
_ATTRIBUTE = r" ?[A-Za-z][A-Za-z0-9.]{0,31} ?= ?[^=,\x00-\x1f\x7f]{1,128}"
_DISTINGUISHED_NAME = re.compile(rf"{_ATTRIBUTE}(?:,{_ATTRIBUTE}){{0,31}}")

_VOLUME_UNITS = {**values.SIZE_UNITS, "tb": 10**12, "tib": 1 << 40}
_TIME_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def identity(value: object) -> str:
    """An IKE identity: a domain name, a mail address, an address, a distinguished name or a key ID."""
    written = values.text(value)
    if written.startswith("keyid:"):
        if not _KEY_ID.fullmatch(written):
            raise ValueError(f'{shown(value)} is not a key ID such as "keyid:0badcafe", in hexadecimal')
    elif "=" in written:
        if not _DISTINGUISHED_NAME.fullmatch(written):
            raise ValueError(f'{shown(value)} is not a distinguished name such as "C=CH, O=Red, CN=edge-1"')
    elif not _NAME_OR_ADDRESS.fullmatch(written):
        raise ValueError(f'{shown(value)} is not an identity such as "edge-1.example"')
    return written


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
