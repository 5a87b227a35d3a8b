"""One row of a file, whichever format that has: the record that it speaks of.

A row has our names, as the HTTP interface and CSV exports have them, or those of Windows'
`Get-NetVirtualizationLookupRecord` (the class MSFT_NetVirtualizationLookupRecordSettingData).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from gateway.lookup.records_wire import customer_address, provider_address
from policies.addresses import HIGHEST_VSID, LOWEST_VSID, CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import Problem
from policies.model import Translation

T = TypeVar("T")

LONGEST_TOLD = 64
"""Of a value that is wrong, so many characters are told."""

COLUMNS = ("vsid", "ca", "mac", "pa", "host", "translation", "epoch", "revision")

NEEDED = ("vsid", "ca", "mac", "pa")

WINDOWS_NAMES = {
    "VirtualSubnetID": "vsid",
    "CustomerAddress": "ca",
    "MACAddress": "mac",
    "ProviderAddress": "pa",
    "Rule": "translation",
}

# Windows' class gives the rules the numbers 35 to 37, and PowerShell's own type those from 0 on.
_RULES = {
    "translationmethodnat": Translation.REWRITE,
    "translationmethodencap": Translation.ENCAP,
    "0": Translation.REWRITE,
    "1": Translation.ENCAP,
    "35": Translation.REWRITE,
    "36": Translation.ENCAP,
}

# Rows of these types say where a host sends what it has no record of, not where a VM is.
_PLACELESS_TYPES = {"gatewaywildcard", "2", "37", "l2only", "6", "41"}


class Given(msgspec.Struct, frozen=True, gc=False):
    """A record as a file has it. Without a host, the provider address says which it is.

    Without a provider address, the service chooses one of the host's.
    """

    where: str
    """In the file: a line, or an index."""
    vsid: Vsid
    ca: CustomerAddress
    mac: MacAddress
    pa: ProviderAddress | None
    host: str | None = None
    translation: Translation | None = None
    is_from_windows: bool = False


class Reading(msgspec.Struct):
    """What has been read of a file: the records, what is wrong, and what is passed over and why."""

    given: list[Given] = []
    problems: list[Problem] = []
    passed_over: list[Problem] = []


def is_windows(names: Iterable[str]) -> bool:
    """Whether these are the names that Windows gives a record's fields."""
    return "CustomerAddress" in names


def take(reading: Reading, where: str, row: Mapping[str, Any]) -> None:
    """Add what a row says to a reading: a record, or all that is wrong with it."""
    from_windows = is_windows(row)
    if from_windows:
        if reason := _placeless(row):
            reading.passed_over.append(Problem(where, reason))
            return
        row = {ours: row.get(theirs) for theirs, ours in WINDOWS_NAMES.items()}
    elif unknown := [name for name in row if name not in COLUMNS]:
        known = ", ".join(COLUMNS)
        reading.problems.append(Problem(where, f"unknown field {_told(unknown[0])}; known are {known}"))
        return
    cells = _Cells(where, row)
    vsid = cells.read("vsid", _vsid)
    ca = cells.read("ca", customer_address)
    mac = cells.read("mac", _mac)
    way = cells.read("translation", _rule if from_windows else Translation, is_needed=False)
    host = cells.read("host", str, is_needed=False)
    pa = cells.read("pa", provider_address, is_needed=host is None)
    if cells.problems or vsid is None or ca is None or mac is None:
        reading.problems += cells.problems
        return
    reading.given.append(Given(where, vsid, ca, mac, pa, host, way, from_windows))


class _Cells:
    """Reads the fields of one row, and keeps what is wrong with them."""

    def __init__(self, where: str, row: Mapping[str, Any]) -> None:
        self.problems: list[Problem] = []
        self._where = where
        self._row = row

    def read(self, name: str, parse: Callable[[str], T], *, is_needed: bool = True) -> T | None:
        found = self._row.get(name)
        if found is None or found == "":
            if is_needed:
                self.problems.append(Problem(self._where, f"{name} is missing"))
            return None
        if not isinstance(found, str | int) or isinstance(found, bool):
            self.problems.append(Problem(self._where, f"{name}: text is wanted"))
            return None
        try:
            return parse(str(found).strip())
        except ValueError as error:
            self.problems.append(Problem(self._where, f"{name}: {error}"))
            return None


def _vsid(text: str) -> Vsid:
    if not text.isascii() or not text.isdecimal() or not LOWEST_VSID <= int(text[:9]) <= HIGHEST_VSID:
        raise ValueError(f"{_told(text)} is no number from {LOWEST_VSID} to {HIGHEST_VSID}")
    return Vsid(int(text[:9]))


def _mac(text: str) -> MacAddress:
    """Read a MAC with colons, with dashes, or as PowerShell takes it: with nothing in between."""
    if len(text) == 12 and text.isalnum():
        text = ":".join(text[at : at + 2] for at in range(0, 12, 2))
    if len(text) > LONGEST_TOLD:
        raise ValueError(f"{_told(text)} is not a MAC address")
    return MacAddress.parse(text)


def _rule(text: str) -> Translation:
    found = _RULES.get(text.lower())
    if found is None:
        raise ValueError(f"Rule {_told(text)} is neither TranslationMethodEncap nor TranslationMethodNat")
    return found


def _placeless(row: Mapping[str, Any]) -> str | None:
    """Return why a row of Windows' says nothing of where a VM is, or None if it does."""
    kind = str(row.get("Type") if row.get("Type") is not None else "").strip()
    if kind.lower() in _PLACELESS_TYPES:
        return f"a record of type {_told(kind)}: it says nothing of where a VM is"
    if str(row.get("CustomerAddress")).strip() in ("0.0.0.0", "::"):
        return "a wildcard: it says nothing of where a VM is"
    return None


def _told(text: str) -> str:
    return repr(text if len(text) <= LONGEST_TOLD else text[:LONGEST_TOLD] + "...")
