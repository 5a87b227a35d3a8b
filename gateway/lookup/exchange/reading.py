"""A file of records, of which only the octets are known."""

from __future__ import annotations

import codecs
from enum import StrEnum

from gateway.lookup.exchange import csv_file, json_file
from gateway.lookup.exchange.rows import Reading
from policies.errors import Problem

# Windows PowerShell's `>` and Out-File write UTF-16, and spreadsheets mark UTF-8 in the same way.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Format(StrEnum):
    """How a file of records is written; AUTO: see what it begins with."""

    AUTO = "auto"
    JSON = "json"
    CSV = "csv"


def read(octets: bytes, form: Format) -> Reading:
    """Read a file of records. What is wrong is in the answer."""
    mark = next((mark for mark in _MARKS if octets.startswith(mark)), b"")
    try:
        text = octets[len(mark) :].decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        what = f"octet {error.start}: this is no text in {_MARKS.get(mark, 'utf-8').upper()}"
        return Reading([], [Problem("", what)], [])
    if form is Format.AUTO:
        form = Format.JSON if text.lstrip()[:1] in ("[", "{") else Format.CSV
    return json_file.read(text) if form is Format.JSON else csv_file.read(text)
