"""The command `isthmus doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from gateway.cli.command_line import FAILED, INSTALLED, LOOK, is_terminal, say_json

if TYPE_CHECKING:
    from gateway.doctor.findings import Finding
    from policies.errors import Problem
    from policies.model import Appliance


def register(app: App) -> None:
    """Add this command to the command line."""
    app.command(doctor, group=LOOK)


def doctor(file: Path = INSTALLED, *, json: bool = False) -> int:
    """Find out what is wrong on this machine and around it, and what to do about it.

    Looks at privileges, the kernel, the underlay's interfaces, the path to each provider address, IKE's
    ports, sites, the firewall, lookup nodes, certificates, the clock and the state folder, beside a
    running appliance or without one. Takes ten seconds at most, and changes nothing. The exit code
    is 1 if something fails.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON array.
    """
    import trio

    from gateway.doctor import examination
    from gateway.doctor.findings import Level
    from gateway.progress import progress

    appliance, problems = _read(file)
    with progress("examining", len(examination.AREAS)) as meter:
        found = trio.run(examination.examine, appliance, problems, meter.advance)
    if json:
        say_json(found)
    else:
        _say(found)
    return FAILED if any(each.level is Level.FAIL for each in found) else 0


def _read(file: Path) -> tuple[Appliance, list[Problem]]:
    """Return a configuration, also where the files are wrong that it names, and what is wrong with them."""
    from policies.config import load, parse
    from policies.errors import ConfigurationError

    try:
        return load(file), []
    except ConfigurationError as error:
        try:
            return parse(file.read_text(), base=file.parent), list(error.problems)
        except (OSError, UnicodeDecodeError):
            raise error from None


def _say(found: list[Finding]) -> None:
    from gateway.doctor.findings import Level

    styles = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "1;31", Level.SKIPPED: "2"}
    is_coloured = is_terminal()
    width = max(len(each.area) for each in found)
    for each in found:
        level = f"{each.level.value:<7}"
        shown = f"\x1b[{styles[each.level]}m{level}\x1b[0m" if is_coloured else level
        print(f"{shown}  {each.area:<{width}}  {each.what}")
        if each.advice and each.level is not Level.OK:
            print(f"{'':<9}{'':<{width}}  -> {each.advice}")
    counts = {level: sum(each.level is level for each in found) for level in Level}
    print(", ".join(f"{count} {level.value}" for level, count in counts.items() if count))
