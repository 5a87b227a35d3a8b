"""Records as a file, where it is to be: the whole of it, or nothing changed."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.lookup.client import LookupClient
from gateway.lookup.client.exchange_commands import ExportFormat, export
from gateway.lookup.exchange.csv_file import read
from policies.errors import ConfigurationError
from policies.services import LookupAccess
from tests.gateway.lookup.serving import TOKENS, WEB, lookup_node, place


def exported(folder: Path, output: Path) -> None:
    """Write the records of a lookup node, of which there is one, to a file."""
    token = folder / "token"
    token.write_text(TOKENS["op"])

    async def main() -> None:
        async with lookup_node() as node:
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            access = LookupAccess((f"http://127.0.0.1:{node.port}",), token)
            async with LookupClient(access) as client:
                await export(client, ExportFormat.CSV, tenant=None, rdids={}, output=output)

    asyncio.run(main())


def addresses(text: str) -> list[str]:
    return [str(record.ca) for record in read(text).given]


def test_file_takes_the_place_of_the_one_before_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "records.csv"
    output.write_text("what was there before")
    exported(tmp_path, output)
    assert addresses(output.read_text()) == ["10.0.1.5"]
    assert list(folder.iterdir()) == [output]


def test_file_is_written_where_a_link_leads(tmp_path: Path) -> None:
    link, file = tmp_path / "latest.csv", tmp_path / "records.csv"
    link.symlink_to(file)
    exported(tmp_path, link)
    assert link.is_symlink()
    assert addresses(file.read_text()) == ["10.0.1.5"]


def test_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()), daemon=True)
    reader.start()
    exported(tmp_path, pipe)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    reader.join(5)
    assert addresses(found[0]) == ["10.0.1.5"]


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"records\.csv: No such file or directory"):
        exported(tmp_path, tmp_path / "missing" / "records.csv")
