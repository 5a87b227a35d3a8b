from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gateway.process import output
from gateway.process.output import MOST_WAITING, Output

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """The end that is read, and the end that is written."""
    ends = os.pipe()
    yield ends
    for each in ends:
        os.close(each)


def test_lines_come_out_in_order_and_the_last_before_the_end(pipe: Pipe) -> None:
    lines = [f"line {number}\n" for number in range(100)]
    opened = Output(pipe[1])
    for line in lines:
        opened.write(line)
    opened.close()
    assert os.read(pipe[0], 65536).decode() == "".join(lines)


def test_pipe_that_nobody_reads_neither_blocks_nor_takes_memory_without_bound(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "GRACE", 0.001)
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    line = "x" * 99 + "\n"
    opened = Output(pipe[1])
    for _ in range(10 * MOST_WAITING):
        opened.write(line)
    opened.close()
    assert opened._waiting.qsize() <= MOST_WAITING

    # Whoever reads at last gets whole lines, and unblocks the thread.
    os.set_blocking(pipe[0], False)
    read = b""
    while opened._thread.is_alive():
        try:
            read += os.read(pipe[0], 65536)
        except BlockingIOError:
            opened.close()
    with suppress(BlockingIOError):
        read += os.read(pipe[0], 65536)
    assert len(read) >= 4096
    assert read.decode() == line * (len(read) // len(line))


def test_reader_that_went_away_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    opened = Output(writing)
    opened.write("into the void\n")
    opened.write("and again\n")
    opened.close()
    assert not opened._thread.is_alive()
    os.close(writing)


def test_what_cannot_be_encoded_is_written_all_the_same(pipe: Pipe) -> None:
    opened = Output(pipe[1])
    opened.write("\udcff\n")
    opened.close()
    assert os.read(pipe[0], 100) == b"\\udcff\n"
