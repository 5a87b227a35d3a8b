"""The commands that change what a running appliance goes by: diff, reload, confirm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway.cli.command_line import CHANGE, INSTALLED, ask, say_json

if TYPE_CHECKING:
    from gateway.changes.difference import Difference

LONGEST_TRIAL = 86400

Seconds = Annotated[int, Parameter(validator=Number(gte=1, lte=LONGEST_TRIAL))]


def register(app: App) -> None:
    """Add these commands to the others."""
    for command in (diff, reload, confirm):
        app.command(command, group=CHANGE)


def diff(file: Path = INSTALLED, *, json: bool = False) -> int:
    """Show what a reload of FILE would change of what runs, and what comes of it; change nothing.

    FILE may lie anywhere: the appliance of its name and state folder is asked.

    Parameters
    ----------
    file
        The configuration, appliance.toml, or a candidate for it.
    json
        Print one JSON array.
    """
    import msgspec

    from gateway.changes.difference import Difference

    answer = ask(file, "diff", {"file": str(file.absolute())})
    if json:
        say_json(answer)
        return 0
    found = msgspec.convert(answer, list[Difference])
    for line in _lines(found):
        print(line)
    if not found:
        print("nothing differs")
    return 0


def reload(file: Path = INSTALLED, *, confirm: Seconds | None = None, json: bool = False) -> int:
    """Have the appliance that runs by FILE read it again, and take over what has changed.

    Sites whose secret, certificate or settings have changed authenticate again, and those that are gone
    are deleted at their peers; what has not changed is left alone. Whatever is wrong is
    listed, and then nothing has changed. What needs a restart is refused.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    confirm
        Go back to what was after so many seconds, unless `isthmus confirm` comes before.
    json
        Print one JSON object.
    """
    import msgspec

    from gateway.operating.configuration import ReloadReport

    answer = ask(file, "reload", {} if confirm is None else {"confirm": confirm})
    if json:
        say_json(answer)
        return 0
    report = msgspec.convert(answer, ReloadReport)
    for line in _lines(report.differences):
        print(line)
    print("reloaded" if report.differences else "reloaded: nothing has changed")
    for site in report.authenticated_again:
        print(f"{site} authenticates again")
    if report.rolls_back_in is not None:
        print(f"rolls back in {report.rolls_back_in:.0f} s, unless: isthmus confirm {file}")
    return 0


def confirm(file: Path = INSTALLED, *, json: bool = False) -> int:
    """Keep what the last `isthmus reload --confirm` has taken over.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON object.
    """
    answer = ask(file, "confirm")
    if json:
        say_json(answer)
    else:
        print("confirmed")
    return 0


def _lines(found: Iterable[Difference]) -> Iterator[str]:
    for difference in found:
        yield str(difference)
        yield f"    {difference.effect}"
