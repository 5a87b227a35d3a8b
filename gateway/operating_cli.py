"""The commands that ask a running appliance how it is: `sites`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from gateway.command_line import LOOK, ask


def register(app: App) -> None:
    """Add these commands to the command line."""
    for command in (sites,):
        app.command(command, group=LOOK)


def sites(file: Path, *, json: bool = False) -> int:
    """Show the sites of the appliance that runs by FILE: up or down since when, and why.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    json
        Print one JSON array.
    """
    import time

    import msgspec

    from gateway.sites import listing
    from gateway.sites.status import SiteStatus

    answer = ask(file, "sites")
    if json:
        print(msgspec.json.encode(answer).decode())
    else:
        for line in listing.lines(msgspec.convert(answer, list[SiteStatus]), time.time()):
            print(line)
    return 0
