"""`records export` and `records import`: records as files, and files as records."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import IO

import msgspec

from gateway.lookup.client import importing
from gateway.lookup.client.client import LookupClient
from gateway.lookup.client.commands import check_there, read_records
from gateway.lookup.exchange import csv_file, json_file, powershell
from gateway.lookup.exchange.rows import Given, Reading
from gateway.progress import progress
from policies.errors import ConfigurationError, Problem
from policies.model import Network

MOST_TOLD = 100
"""Of what was not written, so many are told one by one."""


class ExportFormat(StrEnum):
    """What records can be written as."""

    JSON = "json"
    CSV = "csv"
    POWERSHELL = "powershell"


class Summary(msgspec.Struct, frozen=True):
    """What an import came to, or would come to."""

    created: int
    replaced: int
    same: int
    """Records that were as in the file already."""
    passed_over: int
    """Rows that say nothing of where a VM is, such as Windows' wildcards."""
    failed: list[Problem]
    untried: int
    dry_run: bool


async def export(
    client: LookupClient,
    form: ExportFormat,
    *,
    tenant: str | None,
    rdids: Mapping[str, str],
    output: Path | None,
) -> int:
    """Write the records of a tenant, or all, to a file or to standard output.

    Raises ConfigurationError for a file that cannot be written, and for what a script for Windows lacks.
    """
    network, routing_domains = Network(), {}
    if form is ExportFormat.POWERSHELL:
        network = await client.network()
        of_it = tuple(each for each in network.tenants if tenant in (None, each.name))
        network = msgspec.structs.replace(network, tenants=of_it)
        routing_domains = powershell.routing_domains(network, rdids)
    records = await read_records(client, tenant=tenant, vsid=None)
    if not records:
        await check_there(client, tenant, None)
    if form is ExportFormat.JSON:
        lines = json_file.lines(records)
    elif form is ExportFormat.CSV:
        lines = csv_file.lines(records)
    else:
        revision = max((record.revision for record in records), default=0)
        lines = powershell.lines(network, records, routing_domains, revision=revision)
    _write(lines, output)
    return 0


async def import_(client: LookupClient, reading: Reading, *, replace: bool, dry_run: bool, json: bool) -> int:
    """Write a file's records. Raises ConfigurationError for all that is wrong with them.

    Then nothing has been written, nor where something is in the way, which is a 1.
    """
    judge = importing.Judge(await client.network())
    gateways = [each for each in reading.given if each.is_from_windows and judge.is_gateway(each)]
    passed_over = [*reading.passed_over, *(_gateway(each) for each in gateways)]
    given = [each for each in reading.given if not (each.is_from_windows and judge.is_gateway(each))]
    if problems := [*reading.problems, *judge.problems(given)]:
        raise ConfigurationError(problems)
    for each in passed_over if not json else ():
        print(f"passed over: {each}", file=sys.stderr)
    with progress("comparing records", len(given)) as meter:
        plan = await importing.plan(client, judge, given, replace=replace, advance=meter.advance)
    summary = Summary(0, 0, plan.same, len(passed_over), plan.in_the_way, len(plan.writes), dry_run)
    if plan.in_the_way:
        return _say(summary, "nothing was written", json=json)
    if dry_run:
        replaced = sum(isinstance(write.expected, int) for write in plan.writes)
        created = len(plan.writes) - replaced
        summary = msgspec.structs.replace(summary, created=created, replaced=replaced, untried=0)
        return _say(summary, None, json=json)
    outcome = importing.Outcome(len(plan.writes))
    try:
        with progress("writing records", len(plan.writes)) as meter:
            await importing.carry_out(client, plan.writes, outcome, meter.advance)
    except asyncio.CancelledError:
        _say(_summed_up(summary, outcome), f"it was interrupted: {importing.AGAIN}", json=json)
        raise
    return _say(_summed_up(summary, outcome), outcome.broken_off, json=json)


def _summed_up(summary: Summary, outcome: importing.Outcome) -> Summary:
    return msgspec.structs.replace(
        summary,
        created=outcome.created,
        replaced=outcome.replaced,
        failed=outcome.failed,
        untried=outcome.untried,
    )


def _say(summary: Summary, why: str | None, *, json: bool) -> int:
    """Print what an import came to, and why no further; return the exit code."""
    if json:
        print(msgspec.json.encode(summary).decode())
    else:
        for each in summary.failed[:MOST_TOLD]:
            print(each, file=sys.stderr)
        if len(summary.failed) > MOST_TOLD:
            print(f"... and {len(summary.failed) - MOST_TOLD} more", file=sys.stderr)
        would = "would be " if summary.dry_run and why is None else ""
        print(
            f"{summary.created} {would}created, {summary.replaced} {would}replaced, {summary.same} as in the"
            f" file already, {summary.passed_over} passed over, {len(summary.failed)} failed,"
            f" {summary.untried} not tried"
        )
    if why is not None:
        print(f"isthmus: {why}", file=sys.stderr)
    return 1 if summary.failed or why is not None else 0


def _gateway(given: Given) -> Problem:
    return Problem(given.where, f"{given.ca} is the gateway's own address in VSID {given.vsid}")


def _write(lines: Iterable[str], output: Path | None) -> None:
    """Write text as UTF-8 with the line ends that it has: the whole file, or none of it."""
    if output is None:
        _write_to(sys.stdout.buffer, lines)
        return
    output = output.resolve()
    try:
        if output.exists() and not output.is_file():
            # A pipe or a device, such as /dev/null, is written to: a file must not take its place.
            with output.open("wb") as file:
                _write_to(file, lines)
            return
        descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _write_to(file, lines)
                os.fsync(file.fileno())
            part.replace(output)
        except BaseException:
            with suppress(FileNotFoundError):
                part.unlink()
            raise
    except OSError as error:
        raise ConfigurationError([Problem("", f"{output}: {error.strerror}")]) from None


def _write_to(file: IO[bytes], lines: Iterable[str]) -> None:
    for line in lines:
        file.write(line.encode())
    file.flush()
