"""What the operating interface answers by, and how somebody known by HTTP is seen by its commands."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from gateway.http.door import Door
from gateway.http.principals import Principal
from gateway.http.problems import HttpProblem
from gateway.lookup.visibility import View
from gateway.operating.commands import Asker, Commands, NotAllowed
from policies.errors import ConfigurationError
from policies.model import Network
from policies.services import ALL_TENANTS, Role

T = TypeVar("T")

MOST_STREAMS = 64
MOST_STREAMS_EACH = 8
"""Of one principal."""


class Asking(Protocol):
    """Asks the appliance's commands, wherever they are carried out. Both raise as `carry_out` does."""

    async def ask(self, asker: Asker, command: str, arguments: Mapping[str, Any]) -> Any:
        """Return a command's answer."""
        ...

    def follow(
        self, asker: Asker, command: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[list[Any], None]:
        """Yield what a stream tells, several things at once."""
        ...


class Written(Protocol):
    """How things that are told are written one after another."""

    def begin(self) -> bytes:
        """The first octets."""
        ...

    def add(self, thing: Any, /) -> bytes:
        """The octets of one thing."""
        ...

    def end(self) -> bytes:
        """The last octets, if it comes to its end."""
        ...


class Beside(Protocol):
    """The lookup node that is asked at the same listener. Raises HttpProblem while it knows nothing."""

    def status(self, principal: Principal) -> dict[str, object]:
        """Return how it is."""
        ...

    def network(self, principal: Principal) -> Network:
        """Return the network as somebody may see it."""
        ...


class Operating:
    """What the operating interface of one listener answers by."""

    def __init__(
        self,
        asking: Asking,
        commands: Commands,
        network: Callable[[], Network],
        door: Door,
        capture_file: Callable[[int], Written],
        beside: Beside | None = None,
    ) -> None:
        """`commands` says what there is to be asked; `network` is called on the asyncio thread.

        `capture_file` makes a file of captured packets, of so many octets each.
        """
        self.asking = asking
        self.commands = commands
        self.door = door
        self.capture_file = capture_file
        self.beside = beside
        self.leaving = asyncio.Event()
        """Set when streams are to end. Of the asyncio thread."""
        self._network = network
        self._streams: Counter[str] = Counter()

    def network(self, principal: Principal) -> Network:
        """Return the network's tenants that somebody may see, with nothing of the others."""
        if self.beside is not None:
            return self.beside.network(principal)
        network = self._network()
        asker = asker_of(principal)
        shown = View(identities=principal.role in {Role.OPERATOR, Role.GATEWAY})
        return Network(tenants=tuple(shown.tenant(each) for each in network.tenants if asker.sees(each.name)))

    def enter(self, name: str) -> None:
        """Begin a stream. Raises HttpProblem where there are too many."""
        if self._streams.total() >= MOST_STREAMS:
            message = "as many are followed as this appliance allows"
            raise HttpProblem(503, message, headers={"Retry-After": "5"})
        if self._streams[name] >= MOST_STREAMS_EACH:
            message = f"{name} follows {MOST_STREAMS_EACH} already"
            raise HttpProblem(429, message, headers={"Retry-After": "5"})
        self._streams[name] += 1

    def leave(self, name: str) -> None:
        """End a stream."""
        self._streams[name] -= 1
        if not self._streams[name]:
            del self._streams[name]


def asker_of(principal: Principal) -> Asker:
    """Return somebody as the appliance's commands know them. A host sees no tenant here."""
    sees_all = principal.role in {Role.OPERATOR, Role.GATEWAY} or ALL_TENANTS in principal.tenants
    tenants = None if sees_all else principal.tenants
    return Asker(principal.name, principal.role is Role.OPERATOR, tenants)


async def told(asked: Awaitable[T]) -> T:
    """Await what is asked. Raises HttpProblem for whatever is wrong with it."""
    try:
        return await asked
    except (ConfigurationError, NotAllowed) as error:
        raise problem_of(error) from None


def problem_of(error: ConfigurationError | NotAllowed) -> HttpProblem:
    """Return how a command's refusal is answered."""
    if isinstance(error, NotAllowed):
        return HttpProblem(403, str(error))
    problems = [{"path": each.path, "message": each.message} for each in error.problems]
    return HttpProblem(422, "; ".join(map(str, error.problems)), extra={"problems": problems})
