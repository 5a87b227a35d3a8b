"""What the files of commands share: the groups that `isthmus --help` shows, and whom they ask.

A command imports what it needs when it runs: `isthmus --help` loads none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group

if TYPE_CHECKING:
    from policies.model import Appliance

RUN = Group("Run", sort_key=1)
LOOK = Group("Look", sort_key=2)
CHANGE = Group("Change", sort_key=3)
LOOKUP = Group("Lookup service", sort_key=4)
LAB = Group("Lab", sort_key=5)

INSTALLED = Path("/etc/isthmus/appliance.toml")
"""Whose configuration is meant where none is named: that of the service, as the package installs it."""

FAILED = 1
MISCONFIGURED = 2


def load(file: Path) -> Appliance:
    """Read a configuration. Raises ConfigurationError."""
    from policies.config import load as read

    return read(file)


def ask(file: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Ask the appliance that runs by a file, and return its answer, plain values.

    Raises Unanswered where none runs, and ConfigurationError for what it says is wrong.
    """
    from gateway import control

    return control.ask(_socket(file), command, arguments)


def follow(file: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Ask the appliance that runs by a file for a stream, and yield what it tells. Raises as `ask` does."""
    from gateway import control

    return control.follow(_socket(file), command, arguments)


def say_json(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    import msgspec

    print(msgspec.json.encode(value).decode(), flush=True)


def is_terminal() -> bool:
    """Whether a person looks at what is printed."""
    return sys.stdout.isatty()


def _socket(file: Path) -> Path:
    from gateway import control
    from policies.config import load_name_and_state

    name, state = load_name_and_state(file)
    return control.socket_path(state, name)
