"""What every fuzz test of a decoder asks for: any bytes decode, or raise what says that they don't."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from policies.errors import MalformedPacket
from tests.fuzz.mutation import INPUTS, Repair, mutations


class Target(msgspec.Struct, frozen=True):
    """A decoder, valid inputs for it, and what puts right a mutated one."""

    decode: Callable[[bytes], object]
    corpus: Sequence[bytes]
    repair: Repair | None = None
    refusal: type[Exception] = MalformedPacket


def fuzz(name: str, target: Target, seed: int) -> None:
    """Try `INPUTS` mutations; enough of them have to be decoded, or they test too little."""
    decoded = 0
    for data in mutations(target.corpus, seed, INPUTS, target.repair):
        try:
            target.decode(data)
        except target.refusal:
            continue
        except Exception as failure:  # whatever else is raised is what we look for
            pytest.fail(f"{name}: {failure!r} for bytes.fromhex({data.hex()!r})")
        decoded += 1
    assert INPUTS // 50 < decoded < INPUTS, f"{decoded} inputs were decoded: this tests too little"
