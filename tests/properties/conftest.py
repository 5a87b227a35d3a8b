"""What the comparisons of the fast path share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.fastpath.kernel import BpfRefused
from tests.properties.machine import Processors


@pytest.fixture(scope="session")
def processors() -> Iterator[Processors]:
    """The program in the kernel, twice; loading it takes seconds."""
    try:
        loaded = Processors()
    except BpfRefused as refused:
        pytest.skip(f"no program may be loaded here ({refused})")
    with loaded:
        yield loaded
