"""Records as CSV (RFC 4180): one header, one record a line.

A spreadsheet takes a cell that begins with one of `= + - @`, a tab or a carriage return for a
formula, and whoever may name a host could so have it run one on an operator's machine. Such a cell gets an
apostrophe in front, which spreadsheets show nothing of, and which reading takes away again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from gateway.lookup.exchange import rows
from policies.errors import Problem
from policies.model import LookupRecord

# Some spreadsheets take the wide forms of the first four (U+FF1D and so on) for the same.
_FORMULA_STARTS = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")

LARGEST_CELL = 4096


def lines(records: Iterable[LookupRecord]) -> Iterator[str]:
    """Yield the header and a line for each record, with their line ends."""
    yield _line(rows.COLUMNS)
    for record in records:
        yield _line(
            (
                record.vsid,
                record.ca,
                record.mac,
                record.pa,
                _harmless(record.host),
                record.translation.value,
                record.epoch,
                record.revision,
            )
        )


def read(text: str) -> rows.Reading:
    """Read a file with commas, semicolons or tabs between its cells. What is wrong is in the answer."""
    reading = rows.Reading([], [], [])
    # RFC 4180 knows two line ends; `str.splitlines` knows more, which may stand in a name.
    every_line = list(io.StringIO(text, newline=""))
    start, header = _header(every_line)
    if header is None:
        reading.problems.append(Problem("line 1", f"a header is wanted: {','.join(rows.COLUMNS)}"))
        return reading
    found = csv.reader(every_line[start:], delimiter=_delimiter(every_line[start]), strict=True)
    next(found)
    if problem := _header_fault(header):
        reading.problems.append(Problem(f"line {start + 1}", problem))
        return reading
    first = found.line_num + 1
    while True:
        where = f"line {start + first}"
        try:
            cells = next(found)
        except StopIteration:
            return reading
        except csv.Error as error:
            # Behind an open quote nothing is where it seems to be.
            reading.problems.append(Problem(where, f"this is not CSV: {error}"))
            return reading
        first = found.line_num + 1
        if not cells:
            continue
        if len(cells) != len(header):
            reading.problems.append(
                Problem(where, f"{len(header)} cells are wanted, and {len(cells)} are here")
            )
        elif any(len(cell) > LARGEST_CELL for cell in cells):
            reading.problems.append(Problem(where, f"a cell has more than {LARGEST_CELL} characters"))
        else:
            rows.take(reading, where, dict(zip(header, map(_meant, cells), strict=True)))


def _line(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in _FORMULA_STARTS else cell


def _meant(cell: str) -> str:
    """Take away the apostrophe that keeps a cell from being a formula."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in _FORMULA_STARTS else cell


def _header(every_line: list[str]) -> tuple[int, list[str] | None]:
    """Return the header and the index of its line. PowerShell's Export-Csv may put its type before it."""
    for number, line in enumerate(every_line):
        if line.strip() and not line.startswith(("#TYPE", '"#TYPE')):
            try:
                cells = next(csv.reader([line], delimiter=_delimiter(line), strict=True))
                return number, [name.strip() for name in cells]
            except csv.Error:
                return number, None
    return 0, None


def _delimiter(line: str) -> str:
    """Where a comma is the decimal point, spreadsheets put semicolons between cells."""
    return max(",;\t", key=line.count)


def _header_fault(header: list[str]) -> str | None:
    from_windows = rows.is_windows(header)
    needed = [theirs for theirs, ours in rows.WINDOWS_NAMES.items() if ours in rows.NEEDED]
    missing = [name for name in (needed if from_windows else rows.NEEDED) if name not in header]
    if missing:
        return f"no column {', '.join(missing)}"
    if len(set(header)) != len(header):
        return "a column is there twice"
    unknown = [name for name in header if name not in rows.COLUMNS]
    if unknown and not from_windows:
        known = ", ".join(rows.COLUMNS)
        return f"unknown column {unknown[0][: rows.LONGEST_TOLD]!r}; known are {known}"
    return None
