"""Records as JSON: an array of records as the HTTP interface has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from gateway.lookup.exchange import rows
from gateway.lookup.records_wire import record_text
from policies.errors import Problem
from policies.model import LookupRecord


def lines(records: Iterable[LookupRecord]) -> Iterator[str]:
    """Yield an array with one record a line, with their line ends."""
    before = "[\n"
    for record in records:
        yield before + record_text(record)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def read(text: str) -> rows.Reading:
    """Read an array of records, or a single one, ours or those of Windows.

    That is what `Get-NetVirtualizationLookupRecord | ConvertTo-Json` prints, which
    makes no array of a single record. What is wrong is in the answer.
    """
    reading = rows.Reading([], [], [])
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        reading.problems.append(Problem("", f"this is not JSON: {error}"))
        return reading
    if isinstance(found, dict):
        rows.take(reading, "the record", found)
        return reading
    if not isinstance(found, list):
        reading.problems.append(Problem("", "an array of records is wanted"))
        return reading
    for number, row in enumerate(found):
        if isinstance(row, dict):
            rows.take(reading, f"[{number}]", row)
        else:
            reading.problems.append(Problem(f"[{number}]", "a record is wanted"))
    return reading
