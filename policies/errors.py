"""What can be wrong, told apart by who is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class MalformedPacket(Exception):
    """The bytes break the format. Decoders raise it; services count it and carry on."""


class Rejected(Exception):
    """Well formed, but not acceptable; a session turns it into the right reply."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a configuration: where, and what would be right."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigurationError(Exception):
    """Everything that is wrong with a configuration, found in one run."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Unanswered(Exception):
    """No running appliance answers the command line, and why."""
