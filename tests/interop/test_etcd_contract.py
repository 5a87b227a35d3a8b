"""The store on a real etcd keeps the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from time import time

import pytest

from policies.services import Etcd
from tests.gateway.lookup.entries import OpenStore
from tests.gateway.lookup.stores.contract import StoreContract
from tests.interop.etcd import COMMANDS, Single, opened

pytestmark = pytest.mark.interop

numbers = count()


@pytest.fixture(scope="module")
def single(require_tools: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    require_tools(*COMMANDS)
    with Single(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


class TestEtcdStore(StoreContract):
    @pytest.fixture
    def open_store(self, single: Single) -> OpenStore:
        """Each store has a prefix of its own, and so no entries."""

        return lambda now=time: opened(Etcd((single.endpoint,), prefix=f"/isthmus-{next(numbers)}/"), now)
