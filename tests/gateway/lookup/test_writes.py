"""Writes that read first, where others are quicker."""

from __future__ import annotations

import asyncio

import pytest

from gateway.lookup.entries import Kind, NamedKey, Stored
from gateway.lookup.store import Conflict
from gateway.lookup.writes import ATTEMPTS, persistently

KEY = NamedKey(Kind.TENANT, "red")


class Contested:
    """A record that others change before each of our first writes."""

    def __init__(self, others: int) -> None:
        self.others = others
        self.writes = 0

    async def write(self) -> Stored:
        self.writes += 1
        if self.writes <= self.others:
            raise Conflict(KEY, None)
        return Stored(KEY, None, 1, self.writes)


def test_write_is_made_anew_where_somebody_was_quicker() -> None:
    record = Contested(others=ATTEMPTS - 1)
    assert asyncio.run(persistently(record.write)).revision == ATTEMPTS


def test_write_that_others_always_come_before_is_given_up_with_the_conflict() -> None:
    record = Contested(others=100)
    with pytest.raises(Conflict):
        asyncio.run(persistently(record.write))
    assert record.writes == ATTEMPTS
