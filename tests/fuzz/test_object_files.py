"""Any bytes are an object file or raise MalformedObject, in bounded time."""

from __future__ import annotations

from pathlib import Path

from gateway.fastpath.elf import MalformedObject, read_object
from tests.fuzz.decoding import Target, fuzz

SMALL = Path(__file__).parents[1] / "gateway/fastpath/small.bpf.o"


def test_object_files() -> None:
    fuzz("an object file", Target(read_object, [SMALL.read_bytes()], refusal=MalformedObject), seed=7)
