from __future__ import annotations

import pytest
import trio

from gateway.operating import moves
from gateway.operating.commands import OWNER, carry_out
from policies.errors import ConfigurationError


async def nobody(_item: object) -> None:
    raise AssertionError("moves are told at once")


def test_who_takes_no_part_in_the_lookup_service_says_so() -> None:
    with pytest.raises(ConfigurationError, match="takes no part in the lookup service"):
        trio.run(carry_out, moves.commands(None), OWNER, "moves", {}, nobody)
