"""The command `isthmus firewall`."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App

from gateway.cli.command_line import MISCONFIGURED, RUN, load


def register(app: App) -> None:
    """Add the command."""
    app.command(firewall, group=RUN)


def firewall(file: Path | None = None, *, install: bool = False, remove: bool = False) -> int:
    """Print the rules that keep the kernel silent about NVGRE, ESP and IKE while FILE's appliance is stopped.

    They are nftables' table `inet isthmus`, and nothing else is touched.

    Parameters
    ----------
    file
        The configuration, appliance.toml. --remove needs none.
    install
        Put the rules in place, instead of those before.
    remove
        Take the rules away, if they are there.
    """
    from gateway.process import firewall as rules

    if install and remove:
        print("isthmus: --install or --remove: not both", file=sys.stderr)
        return MISCONFIGURED
    if remove:
        rules.carry_out(rules.removal())
        return 0
    if file is None:
        print("isthmus: FILE is missing: the rules are for its addresses", file=sys.stderr)
        return MISCONFIGURED
    script = rules.rules(load(file))
    if install:
        rules.carry_out(script)
    else:
        print(script, end="")
    return 0
