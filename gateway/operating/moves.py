"""Which records have moved lately, as an operator or a dashboard asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.lookup.movements import Move
from gateway.operating.commands import Asker, Command, Commands, Nothing

Latest = Callable[[], Awaitable[list[Move]]]
"""Returns the last moves, the newest first."""


def commands(latest: Latest | None) -> Commands:
    """Return what can be asked of moves: nothing, where records do not come from the lookup service."""
    if latest is None:
        return {}

    async def moves(asker: Asker, _wanted: Nothing) -> list[Move]:
        return [move for move in await latest() if asker.sees(move.tenant)]

    return {"moves": Command(moves)}
