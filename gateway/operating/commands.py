"""What a running appliance can be asked: one list, for the command line's socket and for HTTP.

A command has a name, the arguments that it takes, and who may give it. Its answer is plain
values that JSON can say. One that goes on telling is a `Stream`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from policies.errors import ConfigurationError, Problem


class Asker(msgspec.Struct, frozen=True):
    """Who asks, and what they see: None is every tenant."""

    name: str
    is_operator: bool
    tenants: frozenset[str] | None = None

    def sees(self, tenant: str) -> bool:
        """Whether something of a tenant is told to them. What is nobody's is named by no tenant: ""."""
        return self.tenants is None or tenant in self.tenants


OWNER = Asker("the machine's owner", is_operator=True)
"""Whoever can open the appliance's own socket."""

Tell = Callable[[Any], Awaitable[None]]
"""Takes one thing told, and comes back once there is room for the next."""


class NotAllowed(Exception):
    """Whoever asks may not. The message is for them."""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a command that takes none."""


class Command(msgspec.Struct, frozen=True, eq=False):
    """Answers once. Raises ConfigurationError for what the asker can put right.

    `arguments` is a msgspec Struct that refuses unknown fields; `answer` takes the asker and one of them.
    """

    answer: Callable[[Asker, Any], Awaitable[Any]]
    arguments: type[msgspec.Struct] = Nothing
    for_operators: bool = False


class Stream(msgspec.Struct, frozen=True, eq=False):
    """Goes on telling, until it is done or nobody listens any more. It may raise ConfigurationError."""

    tell: Callable[[Asker, Any, Tell], Awaitable[None]]
    arguments: type[msgspec.Struct] = Nothing
    for_operators: bool = False
    told: type[msgspec.Struct] = Nothing
    """What each thing is that it tells."""


Commands = Mapping[str, Command | Stream]


async def carry_out(
    commands: Commands, asker: Asker, name: str, arguments: Mapping[str, Any], tell: Tell
) -> Any:
    """Carry out one command, and return its answer: of a stream None, after all that it told.

    Raises ConfigurationError for an unknown command, for arguments that are not as they should be, and for
    what the command itself finds wrong; and NotAllowed.
    """
    command = commands.get(name)
    if command is None:
        known = ", ".join(sorted(commands))
        raise ConfigurationError([Problem("", f"there is no command {name[:64]!r}; there are: {known}")])
    if command.for_operators and not asker.is_operator:
        raise NotAllowed(f"{name} is for operators")
    try:
        wanted = msgspec.convert(arguments, command.arguments, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError([Problem("", f"{name}: {error}")]) from None
    if isinstance(command, Command):
        return await command.answer(asker, wanted)
    await command.tell(asker, wanted, tell)
    return None
