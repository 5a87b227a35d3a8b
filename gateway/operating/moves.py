"""Which records have moved lately, as an operator or a dashboard asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.lookup.movements import Move
from gateway.operating.commands import Asker, Command, Commands, Nothing
from policies.errors import ConfigurationError, Problem

Latest = Callable[[], Awaitable[list[Move]]]
"""Returns the last moves, the newest first."""


def commands(latest: Latest | None) -> Commands:
    """Return what can be asked of moves. None: records do not come from the lookup service here."""

    async def moves(asker: Asker, _wanted: Nothing) -> list[Move]:
        if latest is None:
            words = "this appliance takes no part in the lookup service: its records do not move"
            raise ConfigurationError([Problem("", words)])
        return [move for move in await latest() if asker.sees(move.tenant)]

    return {"moves": Command(moves)}
