"""The commands that ask a running appliance how it is: `status`, `sites` and `events`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway.cli.command_line import FAILED, INSTALLED, LOOK, ask, follow, is_terminal, say_json
from policies.errors import ConfigurationError, Problem

Last = Annotated[int, Parameter(validator=Number(gte=0))]


def register(app: App) -> None:
    """Add these commands to the command line."""
    for command in (status, sites, events):
        app.command(command, group=LOOK)


def status(file: Path = INSTALLED, *, check: bool = False, json: bool = False) -> int:
    """Show how the appliance that runs by FILE is: first what is wrong, and what to do about it.

    For monitoring, --check makes the exit code 1 if something is wrong. It is 1 too if nobody
    answers, and 2 if FILE names no appliance.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    check
        Exit with 1 if something is wrong.
    json
        Print one JSON object.
    """
    import msgspec

    from gateway.operating import listing
    from gateway.operating.status import Status

    answer = ask(file, "status")
    found = msgspec.convert(answer, Status)
    if json:
        say_json(answer)
    else:
        _say(listing.status_lines(found))
    return FAILED if check and not listing.is_well(found) else 0


def sites(file: Path = INSTALLED, site: str | None = None, *, watch: bool = False, json: bool = False) -> int:
    """Show the sites of the appliance that runs by FILE: up or down since when, and why.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    site
        Only this one, TENANT/SITE, with what has happened to it.
    watch
        Show it again every second, until Ctrl-C.
    json
        Print one JSON array; with --watch one a line.
    """
    with suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            answer = _chosen(ask(file, "sites"), site)
            if json:
                say_json(answer)
            else:
                if watch and is_terminal():
                    sys.stdout.write("\x1b[H\x1b[J")
                _say(_sites_in_words(answer, in_detail=site is not None))
            if not watch:
                break
            time.sleep(1)
    return 0


def events(
    file: Path = INSTALLED,
    *,
    follow_: Annotated[bool, Parameter(name="--follow", alias="-f")] = False,
    kind: tuple[str, ...] = (),
    tenant: str = "",
    site: str = "",
    last: Last = 1000,
    json: bool = False,
) -> int:
    """Show what has happened lately at the appliance that runs by FILE, oldest first.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    follow_
        Go on with what happens from now on, until Ctrl-C.
    kind
        Only events of a kind, such as site-down. May be there several times.
    tenant
        Only this tenant's.
    site
        Only those of a site: TENANT/SITE, or with --tenant the site alone.
    last
        No more than so many of those that have happened already.
    json
        Print one JSON object a line.
    """
    import msgspec

    from gateway.operating.events import Event
    from gateway.operating.listing import event_line

    if "/" in site:
        tenant, _, site = site.partition("/")
    wanted = {"event": ",".join(kind), "tenant": tenant, "site": site, "last": last, "follow": follow_}
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for item in follow(file, "events", wanted):
            if json:
                say_json(item)
            else:
                print(event_line(msgspec.convert(item, Event)), flush=True)
    return 0


def _chosen(answer: list[Any], site: str | None) -> list[Any]:
    if site is None:
        return answer
    chosen = [each for each in answer if f"{each['tenant']}/{each['site']}" == site]
    if not chosen:
        names = ", ".join(f"{each['tenant']}/{each['site']}" for each in answer)
        words = f"{site} is none of this appliance's; it dials: {names or 'none'}"
        raise ConfigurationError([Problem("site", words)])
    return chosen


def _sites_in_words(answer: list[Any], *, in_detail: bool) -> Iterable[str]:
    import msgspec

    from gateway.sites import listing
    from gateway.sites.status import SiteStatus

    found = msgspec.convert(answer, list[SiteStatus])
    return listing.detail(found[0], time.time()) if in_detail else listing.lines(found, time.time())


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()
