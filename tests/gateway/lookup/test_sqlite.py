"""The embedded store keeps the contract, across processes too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from gateway.lookup.sqlite import SqliteStore
from gateway.lookup.store import LookupStore
from tests.gateway.lookup.contract import StoreContract
from tests.gateway.lookup.entries import OpenStore


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        numbers = count()

        @asynccontextmanager
        async def opened() -> AsyncIterator[LookupStore]:
            store = await SqliteStore.open(tmp_path / f"{next(numbers)}" / "lookup.db")
            try:
                yield store
            finally:
                await store.close()

        return opened
